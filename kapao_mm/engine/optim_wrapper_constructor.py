# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Sorts the parameters into the three groups that the recipe treats differently."""

from mmcv.cnn import is_norm
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmpose.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from kapao_mm.errors import InputError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class KAPAOOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimizer with :func:`parameter_groups`.

    MMEngine's makes a group of every parameter and prints a line for each.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds optimizer and wrapper for a model, wrapped (DDP) or not.

        Raises:
            InputError: ``paramwise_cfg`` asks for other groups.
        """
        if self.paramwise_cfg:
            raise InputError(
                'paramwise_cfg has no effect with constructor=KAPAOOptimWrapperConstructor, whose '
                'groups are weights, norms and biases; remove one of the two'
            )
        model = model.module if is_model_wrapper(model) else model
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=parameter_groups(model)))
        return OPTIM_WRAPPERS.build(dict(self.optim_wrapper_cfg, optimizer=optimizer))


def parameter_groups(model: nn.Module) -> list[dict]:
    """Three groups, each with a ``name`` and ``params``; every trained parameter is in one.

    Returns:
        'weights' (of convolutions, the only ones that decay), 'norms' (weights of normalisation
        layers) and 'biases' (of both).
    """
    groups = dict(weights=[], norms=[], biases=[])
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kind = 'biases' if name == 'bias' else 'norms' if is_norm(module) else 'weights'
                groups[kind].append(parameter)
    return [dict(name=name, params=params) for name, params in groups.items()]
