# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Computes and plots the training schedule of a config over a run."""

import math

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmpose.registry import DATASETS

from kapao_mm.engine.schedule import Recipe, ema_decay
from kapao_mm.errors import InputError

GROUPS = dict(weights='-', norms='--', biases=':')  # line styles of the groups' learning rates


def read_recipe(
    cfg: Config, gpus: int, iters_per_epoch: int | None = None
) -> tuple[Recipe, dict[str, float]]:
    """Reads the schedule of a config.

    Args:
        cfg: Config that follows the recipe.
        gpus: Number of training processes.
        iters_per_epoch: Iterations of an epoch; None to count the training images.

    Returns:
        The schedule, and the arguments of :func:`ema_decay`.

    Raises:
        InputError: If the config has no RecipeHook or no StepEMAHook, or its training images
            cannot be counted.
    """
    hooks = {hook['type']: hook for hook in cfg.get('custom_hooks') or []}
    for name in ('RecipeHook', 'StepEMAHook'):
        if name not in hooks:
            raise InputError(
                f'{cfg.filename} does not follow the recipe: it has no {name} in custom_hooks; '
                'give a config with one of configs/_base_/schedules'
            )
    ema, optimizer = hooks['StepEMAHook'], cfg.optim_wrapper.optimizer
    recipe = Recipe(
        **{k: v for k, v in hooks['RecipeHook'].items() if k not in ('type', 'priority')},
        **{key: optimizer[key] for key in ('lr', 'momentum', 'weight_decay')},
        max_epochs=cfg.train_cfg.max_epochs,
        epoch_length=iters_per_epoch or count_iterations(cfg, gpus),
        total_batch=cfg.train_dataloader.batch_size * gpus,
    )
    return recipe, dict(decay=ema['decay'], ramp=ema['ramp'])


def count_iterations(cfg: Config, gpus: int) -> int:
    """Returns the number of iterations of an epoch, from the number of training images.

    Raises:
        InputError: If files of the training dataset are missing or wrong.
    """
    try:
        cfg.merge_from_dict({'train_dataloader.dataset.image_cache': None})  # only counts images
        images = len(DATASETS.build(cfg.train_dataloader.dataset))
    except InputError as error:
        raise InputError(f'{error}, or give --iters-per-epoch') from error
    return math.ceil(math.ceil(images / gpus) / cfg.train_dataloader.batch_size)


def trace(recipe: Recipe, ema: dict) -> dict[str, np.ndarray]:
    """Computes the settings at all iterations of the warm-up and the first of each later epoch.

    The last iteration of the run is included, too.

    Returns:
        Arrays (T,) by name: 'iteration', 'lr/GROUP', 'momentum', 'accumulation', 'steps' (optimizer
        steps including this iteration) and 'EMA decay'.
    """
    total = recipe.max_epochs * recipe.epoch_length
    warmup = range(min(recipe.warmup_length + 1, total))
    iterations = sorted({*warmup, *range(0, total, recipe.epoch_length), total - 1})
    rows, steps, pending, last = [], 0, 0, -1
    for iteration in iterations:
        settings = recipe.settings(iteration, iteration // recipe.epoch_length)
        # All iterations since the last one have this accumulation.
        made, pending = divmod(pending + iteration - last, settings.accumulation)
        steps, last = steps + made, iteration
        rows.append(
            {
                'iteration': iteration,
                **{f'lr/{name}': settings.lr[name] for name in GROUPS},
                'momentum': settings.momentum,
                'accumulation': settings.accumulation,
                'steps': steps,
                'EMA decay': ema_decay(steps, **ema),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def draw(recipe: Recipe, values: dict[str, np.ndarray], title: str) -> Figure:
    """Plots the warm-up on the left and the whole run on the right."""
    figure = Figure(figsize=(12, 10), layout='constrained')
    figure.suptitle(title)
    panels = figure.subplots(4, 2)
    positions = (values['iteration'], values['iteration'] / recipe.epoch_length)
    ends = (max(1, recipe.warmup_length), recipe.max_epochs)
    for row, name in zip(panels, ('lr', 'momentum', 'accumulation', 'EMA decay'), strict=True):
        row[0].set_ylabel(name)
        for axes, x, end in zip(row, positions, ends, strict=True):
            axes.set_xlim(0, end)
            axes.grid(alpha=0.3)
            if name == 'lr':
                for group, line in GROUPS.items():
                    axes.plot(x, values[f'lr/{group}'], line, label=group)
            elif name == 'accumulation':
                axes.step(x, values[name], where='post', color='k')
                axes.set_ylim(0, recipe.accumulation + 1)
                axes.yaxis.get_major_locator().set_params(integer=True)
            else:
                axes.plot(x, values[name], color='k')
    for axes, label in zip(panels[-1], ('iteration', 'epoch'), strict=True):
        axes.set_xlabel(label)
    warmup, whole = panels[0]
    warmup.legend()
    warmup.set_title('warm-up')
    whole.set_title('the whole run (the learning rate of the biases starts above the plot)')
    whole.set_ylim(0, 1.2 * recipe.lr)
    return figure
