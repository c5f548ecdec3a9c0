# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Averages the model over the steps of the optimizer."""

from typing import Any

from mmengine.dist import broadcast
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from ..ema import tensors


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """MMEngine's EMAHook for :class:`RampedEMA`, which counts steps instead of iterations.

    Validation, and whatever is saved as the model, is the average. Arguments as in
    :class:`EMAHook`; ``optim_wrapper`` has to be a :class:`KAPAOOptimWrapper`.
    """

    priority = 'ABOVE_NORMAL'  # swapped back before CheckpointHook saves the best

    def __init__(self, ema_type: str = 'RampedEMA', **kwargs: Any) -> None:
        super().__init__(ema_type, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Starts from the initialised or loaded weights: the average was made before they were."""
        super().before_train(runner)
        if runner.iter == 0:
            self.ema_model.start_from(self.src_model)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Updates the average if the iteration changed the weights."""
        if runner.optim_wrapper.stepped:
            super().after_train_iter(runner, *args, **kwargs)

    def before_val_epoch(self, runner: Runner) -> None:
        """Gives every process the average of rank 0, which is the one that gets saved.

        They differ in the statistics of batch normalisation, which each process takes from its own
        images.
        """
        for average in tensors(self.ema_model.module):
            broadcast(average)
        super().before_val_epoch(runner)
