# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Exponential moving average (EMA) of the model, used for validation and publishing."""

from itertools import chain

import torch
from mmengine.model import BaseAveragedModel
from mmpose.registry import MODELS
from torch import Tensor, nn

from kapao_mm.errors import InputError

from .schedule import ema_decay


@MODELS.register_module()
class RampedEMA(BaseAveragedModel):
    """Exponential moving average of weights and floating-point buffers (docs/method.md, Training).

    Use it with :class:`StepEMAHook`. MMPose's ExpMomentumEMA has the same decay, but its first
    update only copies the model. Integer buffers are copied from the model.

    Args:
        model: Model to average.
        decay: Final decay, see :func:`ema_decay`.
        ramp: Number of updates that sets how fast the decay rises, see :func:`ema_decay`.

    Raises:
        InputError: If ``decay`` is not between 0 and 1, or ``ramp`` is not above 0.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: float) -> None:
        if not (0 <= decay <= 1 and ramp > 0):  # also True for NaN
            raise InputError(
                f'RampedEMA has decay={decay} and ramp={ramp}; decay must be between 0 and 1, and '
                'ramp above 0'
            )
        super().__init__(model, update_buffers=True)
        self.decay = decay
        self.ramp = ramp

    def start_from(self, model: nn.Module) -> None:
        """Sets the average to a copy of a model, before training starts."""
        for average, source in zip(tensors(self.module), tensors(model), strict=True):
            average.copy_(source)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Updates the average with the model's current weights and buffers.

        All tensors are averaged in one call, which is faster than MMEngine's loop.
        """
        self.steps += 1
        averages, sources = [], []
        for average, source in zip(tensors(self.module), tensors(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                sources.append(source)
            else:
                average.copy_(source)
        kept = ema_decay(self.steps.item(), self.decay, self.ramp)  # `steps` is on the CPU
        torch._foreach_lerp_(averages, sources, 1 - kept)


def tensors(module: nn.Module) -> list[Tensor]:
    """Returns the parameters and buffers of a module."""
    return [tensor.data for tensor in chain(module.parameters(), module.buffers())]
