# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Plots learning rate, momentum, accumulation and EMA decay over a training run of a config."""

import argparse
from pathlib import Path

from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error, positive


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file that follows the recipe')
    parser.add_argument('--out', type=Path, help='image file [work_dirs/CONFIG/schedule.png]')
    parser.add_argument(
        '--gpus', type=positive, default=1, help='processes of the training [%(default)s]'
    )
    parser.add_argument(
        '--iters-per-epoch', type=positive, help='instead of counting the training images'
    )
    add_config_options(parser, 'data_root=DIR train_dataloader.batch_size=8')
    return parser.parse_args()


def main() -> None:
    """Writes the plot, and prints the main numbers of the schedule."""
    args = parse_args()
    from matplotlib.figure import Figure

    from kapao_mm import register_all_modules
    from kapao_mm.analysis.report import save_plot
    from kapao_mm.analysis.schedule_plot import draw, read_recipe, trace
    from kapao_mm.utils.config import load_config

    name = Path(args.config).stem
    out = args.out or Path('work_dirs') / name / 'schedule.png'
    check_writable(out, [f'.{kind}' for kind in Figure().canvas.get_supported_filetypes()])
    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    recipe, ema = read_recipe(cfg, args.gpus, args.iters_per_epoch)
    values = trace(recipe, ema)

    images = recipe.total_batch * recipe.accumulation
    last_lr = recipe.cosine_lr(recipe.max_epochs - 1)
    print(f'{name}: {recipe.max_epochs} epochs of {recipe.epoch_length} iterations')
    print(f'warm-up: {recipe.warmup_length} iterations')
    print(f'a step: {recipe.total_batch} images x {recipe.accumulation} iterations = {images}')
    print(f'weight decay: {recipe.scaled_weight_decay:g}')
    print(f'lr: {recipe.lr:g} falling to {last_lr:g} in the last epoch')
    print(f'steps: {values["steps"][-1]}')
    save_plot(draw(recipe, values, f'{name}, {recipe.total_batch} images an iteration'), out)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
