# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Plots learning rate, momentum, accumulation and EMA decay over a training run of a config."""

import argparse
import math
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error, positive


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file that follows the recipe')
    parser.add_argument('--out', type=Path, help='the picture [work_dirs/CONFIG/schedule.png]')
    parser.add_argument('--gpus', type=positive, default=1, help='processes of the training [1]')
    parser.add_argument(
        '--iters-per-epoch', type=positive, help='instead of counting the training images'
    )
    add_config_options(parser, 'data_root=DIR train_dataloader.batch_size=8')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmpose.registry import DATASETS

from kapao_mm import register_all_modules
from kapao_mm.engine.schedule import Recipe, ema_decay
from kapao_mm.utils.config import load_config

GROUPS = dict(weights='-', norms='--', biases=':')  # line styles of the groups' learning rates


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


def recipe_numbers(path: str, cfg: Config) -> tuple[dict, dict]:
    """Returns a config's arguments of :class:`Recipe` and of :func:`ema_decay`.

    Raises:
        InputError: If the config has no RecipeHook or no StepEMAHook.
    """
    hooks = {hook['type']: hook for hook in cfg.get('custom_hooks') or []}
    for name in ('RecipeHook', 'StepEMAHook'):
        if name not in hooks:
            raise InputError(
                f'{path} does not follow the recipe: it has no {name} in custom_hooks; give a '
                'config with one of configs/_base_/schedules'
            )
    ema, optimizer = hooks['StepEMAHook'], cfg.optim_wrapper.optimizer
    return dict(
        {k: v for k, v in hooks['RecipeHook'].items() if k not in ('type', 'priority')},
        **{key: optimizer[key] for key in ('lr', 'momentum', 'weight_decay')},
        max_epochs=cfg.train_cfg.max_epochs,
    ), dict(decay=ema['decay'], ramp=ema['ramp'])


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
    rows = dict(
        zip(('lr', 'momentum', 'accumulation', 'EMA decay'), figure.subplots(4, 2), strict=True)
    )
    columns = (values['iteration'], values['iteration'] / recipe.epoch_length)
    for column, x in enumerate(columns):
        for group, line in GROUPS.items():
            rows['lr'][column].plot(x, values[f'lr/{group}'], line, label=group)
        for name in ('momentum', 'EMA decay'):
            rows[name][column].plot(x, values[name], color='k')
        rows['accumulation'][column].step(x, values['accumulation'], where='post', color='k')
        rows['accumulation'][column].set_ylim(0, recipe.accumulation + 1)
        rows['accumulation'][column].yaxis.get_major_locator().set_params(integer=True)
    for name, (warmup, whole) in rows.items():
        warmup.set_ylabel(name)
        warmup.set_xlim(0, max(1, recipe.warmup_length))
        whole.set_xlim(0, recipe.max_epochs)
        warmup.grid(alpha=0.3)
        whole.grid(alpha=0.3)
    warmup.set_xlabel('iteration')
    whole.set_xlabel('epoch')

    warmup, whole = rows['lr']
    warmup.legend()
    warmup.set_title('warm-up')
    whole.set_title('the whole run (the biases start above the picture)')
    whole.set_ylim(0, 1.2 * recipe.lr)
    return figure


def main() -> None:
    """Writes the plot, and prints the main numbers of the schedule."""
    args = parse_args()
    register_all_modules()
    out = args.out or Path('work_dirs') / Path(args.config).stem / 'schedule.png'
    kinds = Figure().canvas.get_supported_filetypes()
    check_writable(out, [f'.{kind}' for kind in kinds])
    cfg = load_config(args.config, args.cfg_options)
    numbers, ema = recipe_numbers(args.config, cfg)
    epoch_length = args.iters_per_epoch or count_iterations(cfg, args.gpus)
    total_batch = cfg.train_dataloader.batch_size * args.gpus
    recipe = Recipe(**numbers, epoch_length=epoch_length, total_batch=total_batch)
    values = trace(recipe, ema)

    name = Path(args.config).stem
    figure = draw(recipe, values, f'{name}, {recipe.total_batch} images an iteration')
    with atomic_path(out) as temporary:
        figure.savefig(temporary)

    images = recipe.total_batch * recipe.accumulation
    last_lr = recipe.cosine_lr(recipe.max_epochs - 1)
    print(f'{name}: {recipe.max_epochs} epochs of {recipe.epoch_length} iterations')
    print(f'warm-up: {recipe.warmup_length} iterations')
    print(f'a step: {recipe.total_batch} images x {recipe.accumulation} iterations = {images}')
    print(f'weight decay: {recipe.scaled_weight_decay:g}')
    print(f'lr: {recipe.lr:g} falling to {last_lr:g} in the last epoch')
    print(f'steps: {values["steps"][-1]}')
    print(f'picture: {out}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
