# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Builds the optimizer with three parameter groups: weights, norms and biases."""

from mmcv.cnn import is_norm
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmpose.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from kapao_mm.errors import InputError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class KAPAOOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimizer with the groups of :func:`parameter_groups`.

    MMEngine's constructor makes a group for every parameter and prints a line for each.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the optimizer and its wrapper for a model, which may be wrapped (DDP).

        Raises:
            InputError: If ``paramwise_cfg`` is set.
        """
        if self.paramwise_cfg:
            raise InputError(
                'paramwise_cfg does not work with constructor=KAPAOOptimWrapperConstructor, which '
                'makes the groups weights, norms and biases; remove one of the two'
            )
        model = model.module if is_model_wrapper(model) else model
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=parameter_groups(model)))
        return OPTIM_WRAPPERS.build(dict(self.optim_wrapper_cfg, optimizer=optimizer))


def parameter_groups(model: nn.Module) -> list[dict]:
    """Sorts the trained parameters of a model into three groups.

    Returns:
        Groups with ``name`` and ``params``: 'weights' (of convolutions, the only ones with weight
        decay), 'norms' (weights of normalization layers) and 'biases' (of both).
    """
    groups = dict(weights=[], norms=[], biases=[])
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kind = 'biases' if name == 'bias' else 'norms' if is_norm(module) else 'weights'
                groups[kind].append(parameter)
    return [dict(name=name, params=params) for name, params in groups.items()]
