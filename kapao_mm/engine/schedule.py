# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The formulas of the recipe (docs/method.md, Training); the numbers in them are the configs'."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class IterationSettings(NamedTuple):
    """What the optimizer works with at one iteration.

    Attributes:
        lr: of each parameter group, by its name.
        weight_decay: likewise.
        momentum: of all groups.
        accumulation: iterations whose gradients are summed for a step.
    """

    lr: dict[str, float]
    weight_decay: dict[str, float]
    momentum: float
    accumulation: int


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training run, and what follows from them at each iteration.

    Attributes:
        lr: of the optimizer.
        momentum: of the optimizer.
        weight_decay: of the optimizer, for a batch of ``nominal_batch`` images.
        nominal_batch: images a step, aimed at by summing gradients.
        warmup_epochs: the warm-up takes this many epochs,
        warmup_iterations: but no fewer iterations than this.
        warmup_bias_lr: lr of the biases where the warm-up starts; that of the others is 0.
        warmup_momentum: momentum where the warm-up starts.
        final_lr_ratio: the cosine falls from ``lr`` to this part of it.
        max_epochs: epochs of the run.
        epoch_length: iterations an epoch.
        total_batch: images an iteration, of all processes.
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
        """Iterations of the warm-up."""
        return max(self.warmup_epochs * self.epoch_length, self.warmup_iterations)

    @property
    def accumulation(self) -> int:
        """Iterations a step after the warm-up."""
        return max(1, round(self.nominal_batch / self.total_batch))

    @property
    def scaled_weight_decay(self) -> float:
        """The weight decay for the images a step that this run has."""
        return self.weight_decay * self.total_batch * self.accumulation / self.nominal_batch

    def cosine_lr(self, epoch: int) -> float:
        """The lr of an epoch, counted from 0, but for the warm-up."""
        fallen = (1 - math.cos(math.pi * epoch / self.max_epochs)) / 2  # 0 to 1
        return self.lr * (1 + fallen * (self.final_lr_ratio - 1))

    def settings(self, iteration: int, epoch: int) -> IterationSettings:
        """The settings of an iteration.

        Args:
            iteration: counted from 0 over the whole run.
            epoch: the one that it belongs to, counted from 0.
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
    """How much of the average an update keeps.

    Args:
        updates: of the average, this one included: 1, 2, ...
        decay: where it rises to.
        ramp: updates after which all but 1 / e of the rise is done.
    """
    return decay * (1 - math.exp(-updates / ramp))
