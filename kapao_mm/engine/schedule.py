# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Formulas of the training schedule (docs/method.md, Training); configs contain the numbers."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class IterationSettings(NamedTuple):
    """Settings of the optimizer at one iteration.

    Attributes:
        lr: Learning rate of each parameter group, by the name of the group.
        weight_decay: Weight decay of each parameter group, by the name of the group.
        momentum: Momentum of all groups.
        accumulation: Number of iterations whose gradients are summed for a step.
    """

    lr: dict[str, float]
    weight_decay: dict[str, float]
    momentum: float
    accumulation: int


@dataclass(frozen=True)
class Recipe:
    """Training schedule: computes the optimizer settings of each iteration.

    Attributes:
        lr: Learning rate after the warm-up.
        momentum: Momentum after the warm-up.
        weight_decay: Weight decay for a batch of ``nominal_batch`` images.
        nominal_batch: Number of images for an optimizer step; gradients of several iterations are
            summed to reach it.
        warmup_epochs: Length of the warm-up in epochs.
        warmup_iterations: Minimum length of the warm-up in iterations.
        warmup_bias_lr: Learning rate of the biases at the start of the warm-up; the other groups
            start at 0.
        warmup_momentum: Momentum at the start of the warm-up.
        final_lr_ratio: Final learning rate of the cosine, as a fraction of ``lr``.
        max_epochs: Number of epochs of the run.
        epoch_length: Number of iterations of an epoch.
        total_batch: Number of images in an iteration, over all processes.
    """

    lr: float
    momentum: float
    weight_decay: float
    nominal_batch: int
    warmup_epochs: int
    warmup_iterations: int
    warmup_bias_lr: float
    warmup_momentum: float
    final_lr_ratio: float
    max_epochs: int
    epoch_length: int
    total_batch: int

    @property
    def warmup_length(self) -> int:
        """Number of iterations of the warm-up."""
        return max(self.warmup_epochs * self.epoch_length, self.warmup_iterations)

    @property
    def accumulation(self) -> int:
        """Number of iterations for each optimizer step after the warm-up."""
        return max(1, round(self.nominal_batch / self.total_batch))

    @property
    def scaled_weight_decay(self) -> float:
        """Weight decay scaled to the number of images that a step of this run has."""
        return self.weight_decay * self.total_batch * self.accumulation / self.nominal_batch

    def cosine_lr(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, without warm-up.

        Args:
            epoch: Epoch, counted from 0.
        """
        fallen = (1 - math.cos(math.pi * epoch / self.max_epochs)) / 2  # 0 to 1
        return self.lr * (1 + fallen * (self.final_lr_ratio - 1))

    def settings(self, iteration: int, epoch: int) -> IterationSettings:
        """Computes the settings of an iteration.

        Args:
            iteration: Iteration, counted from 0 over the whole run.
            epoch: Epoch of the iteration, counted from 0.
        """

        def warming(start: float, end: float) -> float:
            return float(np.interp(iteration, (0, self.warmup_length), (start, end)))

        lr = self.cosine_lr(epoch)
        return IterationSettings(
            lr=dict(
                weights=warming(0, lr),
                norms=warming(0, lr),
                biases=warming(self.warmup_bias_lr, lr),
            ),
            weight_decay=dict(weights=self.scaled_weight_decay, norms=0.0, biases=0.0),
            momentum=warming(self.warmup_momentum, self.momentum),
            accumulation=max(1, round(warming(1, self.nominal_batch / self.total_batch))),
        )


def ema_decay(updates: int, decay: float, ramp: float) -> float:
    """Returns the decay of the moving average: the share of the average that an update keeps.

    Args:
        updates: Number of updates including this one: 1, 2, ...
        decay: Final value of the decay.
        ramp: Time constant of the rise, in updates: after ``ramp`` updates the decay has reached
            ``1 - 1 / e`` of its final value.
    """
    return decay * (1 - math.exp(-updates / ramp))
