# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Trains and tests a config for each value of one of its keys, and plots a metric over the values.

Example, as for the size of keypoint objects in the paper (Fig. 5):

  sweep.py CONFIG --key model.head.keypoint_size --values 0.01 0.025 0.05 0.075 0.1

Keys that only affect testing need no training:

  sweep.py CONFIG --key model.test_cfg.fusion_distance --values 0 25 50 100 --checkpoint FILE

The same command continues a stopped sweep, also with additional values; finished values are not run
again. If a value fails, it is reported and the others continue; the next call tries it again.
"""

import argparse
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('--key', required=True, help='key of the config, as for --cfg-options')
    parser.add_argument(
        '--values', required=True, nargs='+', help="written as for --cfg-options: '[0.05,0.1]'"
    )
    parser.add_argument('--checkpoint', type=Path, help='test this one instead of training')
    parser.add_argument('--metric', help='what to plot [the first of the evaluation, AP]')
    parser.add_argument('--gpus', type=int, default=1, help='processes of a training [%(default)s]')
    parser.add_argument(
        '--work-dir', type=Path, help='a folder for each value [work_dirs/CONFIG/sweep_KEY]'
    )
    add_config_options(parser, 'data_root=DIR max_epochs=50')
    return parser.parse_args()


def main() -> None:
    """Runs the sweep, and prints and plots the results."""
    args = parse_args()
    from kapao_mm.analysis.report import print_table, save_plot
    from kapao_mm.analysis.sweep import draw, run_sweep, write_table

    key, name = args.key, args.config.stem
    args.work_dir = args.work_dir or Path('work_dirs') / name / f'sweep_{key}'
    metric, rows = run_sweep(**vars(args))
    if metric is None:
        raise InputError('every value failed')
    results = {text: metrics[metric] for text, metrics in rows.items() if metrics}
    print()
    print_table(
        (key, metric),
        ((text, f'{results[text]:.4f}' if text in results else 'failed') for text in rows),
    )
    best = max(results, key=results.get)
    print(f'best: {key}={best}, {metric} {results[best]:.4f}')
    write_table(args.work_dir / 'results.csv', key, rows)
    save_plot(draw(key, metric, rows, name), args.work_dir / 'results.png')
    if failed := [text for text in rows if text not in results]:
        raise InputError(f'failed: {", ".join(failed)}; the same command tries them again')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
