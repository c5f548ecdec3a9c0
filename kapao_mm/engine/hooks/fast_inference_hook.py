# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that tests with a copy of the model that is optimized for inference."""

import copy

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.errors import InputError
from kapao_mm.models.utils.inference import prepare_for_inference


@HOOKS.register_module()
class FastInferenceHook(Hook):
    """Tests with a copy of the model optimized by :func:`prepare_for_inference`.

    The model itself is not changed.

    Args:
        precision: Precision of the network, such as 'float32' or 'float16'.
        compile_network: Whether to compile the network with ``torch.compile``.

    Raises:
        InputError: If the model is sharded over processes (FSDP); raised when the test starts.
    """

    priority = 'VERY_LOW'  # runs after EMAHook has swapped in the averaged weights

    def __init__(self, precision: str = 'float32', compile_network: bool = False) -> None:
        self.precision = precision
        self.compile_network = compile_network

    def before_test_epoch(self, runner: Runner) -> None:
        """Replaces the runner's model by the optimized copy."""
        self._model = model = runner.model
        if is_model_wrapper(model):
            if not isinstance(model, MMDistributedDataParallel):
                raise InputError(
                    f'--amp and --compile do not work with {type(model).__name__}; set '
                    'model_wrapper_cfg.type=MMDistributedDataParallel'
                )
            model = model.module
        runner.model = copy.deepcopy(model)
        inner = runner.model.module if isinstance(model, BaseTTAModel) else runner.model
        prepare_for_inference(inner, self.precision, self.compile_network)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Restores the runner's original model."""
        runner.model = self._model
