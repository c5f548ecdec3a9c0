# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tests a fast copy of the model."""

import copy

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.errors import InputError
from kapao_mm.models.inference_cost import prepare_for_inference


@HOOKS.register_module()
class FastInferenceHook(Hook):
    """Runs a test on a copy that :func:`prepare_for_inference` made; the model stays as it is.

    Args:
        precision: of the network.
        compile_network: torch.compile it.

    Raises:
        InputError: when a test starts, if the model is divided over processes (FSDP).
    """

    priority = 'VERY_LOW'  # the average of the weights (EMA) is in place before

    def __init__(self, precision: str = 'float32', compile_network: bool = False) -> None:
        self.precision = precision
        self.compile_network = compile_network

    def before_test_epoch(self, runner: Runner) -> None:
        """Puts the copy where the loop takes its model."""
        self._model = model = runner.model
        if is_model_wrapper(model):
            if not isinstance(model, MMDistributedDataParallel):
                raise InputError(
                    f'--amp and --compile need the whole model in a process, not in '
                    f'{type(model).__name__}: set model_wrapper_cfg.type=MMDistributedDataParallel'
                )
            model = model.module
        runner.model = copy.deepcopy(model)
        inner = runner.model.module if isinstance(model, BaseTTAModel) else runner.model
        prepare_for_inference(inner, self.precision, self.compile_network)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Puts the model back."""
        runner.model = self._model
