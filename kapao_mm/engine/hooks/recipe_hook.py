# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hook that sets learning rate, momentum, weight decay and accumulation for each iteration."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpose.registry import HOOKS

from kapao_mm.errors import InputError

from ..optim_wrapper import KAPAOOptimWrapper
from ..schedule import Recipe


@HOOKS.register_module()
class RecipeHook(Hook):
    """Sets lr, momentum, weight decay and gradient accumulation as :class:`Recipe` computes them.

    MMEngine's schedulers support neither parameter groups nor accumulation. All values are
    computed from the config and the iteration, so that resuming needs no saved state and works
    with another batch size.

    Args:
        numbers: Fields of :class:`Recipe` that are not taken from the optimizer (lr, momentum,
            weight_decay) or the run (max_epochs, epoch_length, total_batch).

    Raises:
        InputError: If the optimizer wrapper is not :class:`KAPAOOptimWrapper`, or the parameter
            groups lack a name or momentum; raised when training starts.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which logs the lr

    def __init__(self, **numbers: float) -> None:
        self.numbers = numbers

    def before_train(self, runner: Runner) -> None:
        """Creates the recipe of the run."""
        wrapper, optimizer = runner.optim_wrapper, runner.optim_wrapper.optimizer
        if not isinstance(wrapper, KAPAOOptimWrapper) or not all(
            'name' in group and 'momentum' in group for group in optimizer.param_groups
        ):
            raise InputError(
                'RecipeHook needs an optim_wrapper of type KAPAOOptimWrapper with '
                'constructor=KAPAOOptimWrapperConstructor and an optimizer with momentum (SGD)'
            )
        self.recipe = Recipe(
            **self.numbers,
            lr=optimizer.defaults['lr'],
            momentum=optimizer.defaults['momentum'],
            weight_decay=optimizer.defaults['weight_decay'],
            max_epochs=runner.max_epochs,
            epoch_length=len(runner.train_dataloader),
            total_batch=runner.train_dataloader.batch_size * runner.world_size,
        )

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Sets the optimizer and the accumulation for the next iteration."""
        settings = self.recipe.settings(runner.iter, runner.epoch)
        runner.optim_wrapper.accumulation = settings.accumulation
        for group in runner.optim_wrapper.optimizer.param_groups:
            group['lr'] = settings.lr[group['name']]
            group['momentum'] = settings.momentum
            group['weight_decay'] = settings.weight_decay[group['name']]
