# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""EMA hook that updates the averaged model once for each optimizer step."""

from typing import Any

from mmengine.dist import broadcast
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from ..ema import tensors


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """EMAHook of MMEngine that updates the average at optimizer steps, not at iterations.

    The average is validated and saved as the model. ``optim_wrapper`` must be a
    :class:`KAPAOOptimWrapper`.

    Args:
        ema_type: Type of the averaged model.
        **kwargs: Further arguments of :class:`EMAHook`.
    """

    priority = 'ABOVE_NORMAL'  # restores the weights before CheckpointHook saves the best

    def __init__(self, ema_type: str = 'RampedEMA', **kwargs: Any) -> None:
        super().__init__(ema_type, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Copies the initialized or loaded weights into the average, which was built before."""
        super().before_train(runner)
        if runner.iter == 0:
            self.ema_model.start_from(self.src_model)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Updates the average if the iteration changed the weights."""
        if runner.optim_wrapper.stepped:
            super().after_train_iter(runner, *args, **kwargs)

    def before_val_epoch(self, runner: Runner) -> None:
        """Copies the average of the first process, which is the saved one, to all processes.

        The averages differ in the batch norm statistics, which each process computes from its own
        images.
        """
        for average in tensors(self.ema_model.module):
            broadcast(average)
        super().before_val_epoch(runner)
