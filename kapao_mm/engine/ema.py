# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The averaged model that is validated and published."""

from itertools import chain

import torch
from mmengine.model import BaseAveragedModel
from mmpose.registry import MODELS
from torch import Tensor, nn

from kapao_mm.errors import InputError

from .schedule import ema_decay


@MODELS.register_module()
class RampedEMA(BaseAveragedModel):
    """Exponential moving average of weights and floating buffers (docs/method.md, Training).

    MMPose's ExpMomentumEMA has the same decay, but its first update is a copy, so that its second
    is the first that averages. Integer buffers follow the model.

    Args:
        model: the model to average.
        decay: see :func:`ema_decay`.
        ramp: see :func:`ema_decay`.

    Raises:
        InputError: If these numbers would make the average anything but one.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: float) -> None:
        if not (0 <= decay <= 1 and ramp > 0):  # as NaN, too
            raise InputError(
                f'RampedEMA has decay={decay} and ramp={ramp}; decay must be 0 to 1 and ramp above '
                '0, or the averaged weights are no numbers'
            )
        super().__init__(model, update_buffers=True)
        self.decay = decay
        self.ramp = ramp

    def start_from(self, model: nn.Module) -> None:
        """Makes the average a copy of a model that was not trained yet."""
        for average, source in zip(tensors(self.module), tensors(model), strict=True):
            average.copy_(source)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the model into the average, all tensors at once; MMEngine goes one by one."""
        self.steps += 1
        averages, sources = [], []
        for average, source in zip(tensors(self.module), tensors(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                sources.append(source)
            else:
                average.copy_(source)
        kept = ema_decay(self.steps.item(), self.decay, self.ramp)  # `steps` stays on the CPU
        torch._foreach_lerp_(averages, sources, 1 - kept)


def tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module."""
    return [tensor.data for tensor in chain(module.parameters(), module.buffers())]
