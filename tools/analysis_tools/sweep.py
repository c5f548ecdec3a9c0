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
import csv
import json
import re
import subprocess
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('--key', required=True, help='of the config, as --cfg-options takes it')
    parser.add_argument(
        '--values', required=True, nargs='+', help="written as for --cfg-options: '[0.05,0.1]'"
    )
    parser.add_argument('--checkpoint', type=Path, help='test this one instead of training')
    parser.add_argument('--metric', help='what to plot [the first of the evaluation, AP]')
    parser.add_argument('--gpus', type=int, default=1, help='processes of a training [1]')
    parser.add_argument(
        '--work-dir', type=Path, help='a folder for each value [work_dirs/CONFIG/sweep_KEY]'
    )
    add_config_options(parser, 'data_root=DIR max_epochs=50')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from matplotlib.figure import Figure
from mmengine.config import Config

from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import fetch, latest_checkpoint
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.evaluation.coco_evaluation import metric_names
from kapao_mm.utils.config import load_config, typed_value

TOOLS = Path(__file__).parents[1]
WIDE_RANGE = 50  # values that differ by more than this factor get a logarithmic axis


def require_key(path: Path, options: dict[str, Any], key: str) -> None:
    """Checks that a config has a key, because setting an unknown key may have no effect.

    Raises:
        InputError: If the config does not have the key.
    """
    value = load_config(path, options)
    try:
        for part in key.split('.'):
            value = value[int(part) if isinstance(value, (list, tuple)) else part]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f'{path} has no {key}; if what it configures takes it, set it first: '
            f'--cfg-options {key}=VALUE'
        ) from error


def require_metric(cfg: Config, name: str) -> None:
    """Checks, before the first training, that the evaluation of a config has a metric.

    Only configs with a single KAPAOMetric and a test dataset with metainfo are checked.

    Raises:
        InputError: If the evaluation does not have the metric.
    """
    evaluator, dataset = cfg.test_evaluator, cfg.test_dataloader.dataset
    if isinstance(evaluator, dict) and evaluator.type == 'KAPAOMetric' and 'metainfo' in dataset:
        categories = [entry['name'] for entry in read_metainfo(dataset.metainfo)['categories']]
        kind, box_ap = evaluator.get('iou_type', 'keypoints'), evaluator.get('box_ap', True)
        prefix = evaluator.get('prefix', KAPAOMetric.default_prefix)
        known = [f'{prefix}/{metric}' for metric in metric_names(categories, kind, box_ap)]
        if name not in known:
            raise InputError(f'the evaluation has no {name}; it has {", ".join(known)}')


def prepare(args: argparse.Namespace, work_dir: Path) -> dict[str, Path]:
    """Writes the config of every value to a folder of its own.

    Returns:
        The folder of each value, by the text of the value.

    Raises:
        InputError: If the config lacks the key, two values would share a folder, or a folder
            contains the config of another run.
    """
    require_key(args.config, args.cfg_options, args.key)
    folders = {text: work_dir / re.sub(r'[^\w.+-]+', '_', text) for text in args.values}
    if len(set(folders.values())) < len(args.values):
        raise InputError(f'--values {" ".join(args.values)}: two of them would share a folder')
    for text, folder in folders.items():
        options = args.cfg_options | {args.key: typed_value(text)}
        if args.checkpoint:
            options['load_from'] = str(args.checkpoint.absolute())
        content = load_config(args.config, options).pretty_text
        path = folder / 'config.py'
        if path.exists() and path.read_text() != content:
            raise InputError(
                f'{folder} is of another config, checkpoint or --cfg-options; delete it, or give '
                'another --work-dir'
            )
        check_writable(path)
        with atomic_path(path) as temporary:
            temporary.write_text(content)
    return folders


def run_tool(log: Path, *command: str | Path) -> bool:
    """Runs a Python file with its output in a log file, and returns whether it succeeded.

    If it fails, the last line of the log is printed.
    """
    print(f'  {log}', flush=True)
    with log.open('a') as file:
        run = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT)
    if run.returncode:
        lines = log.read_text().strip().splitlines() or [f'exit code {run.returncode}']
        print(f'  failed: {lines[-1]}', flush=True)
    return run.returncode == 0


def measure(folder: Path, checkpoint: Path | None, gpus: int) -> dict[str, float] | None:
    """Trains and tests the config in a folder, unless this was done before.

    Args:
        folder: Folder with ``config.py``.
        checkpoint: Checkpoint to test instead of training.
        gpus: Number of training processes.

    Returns:
        The metrics; None if training or testing failed.
    """
    done = folder / 'metrics.json'
    if checkpoint and done.exists() and done.stat().st_mtime < checkpoint.stat().st_mtime:
        done.unlink()  # the metrics belong to an earlier checkpoint with the same name
    if not done.exists():
        config, train_dir = folder / 'config.py', folder / 'train'
        if not checkpoint:
            command = [TOOLS / 'train.py', config, '--work-dir', train_dir, '--resume']
            if gpus > 1:
                launch = [TOOLS / 'misc/launch.py', str(gpus)]
                command = [*launch, *command, '--launcher', 'pytorch']
            if not run_tool(folder / 'train.log', *command):
                return None
            checkpoint = latest_checkpoint(train_dir)
        out = folder / 'test' / done.name
        command = [TOOLS / 'test.py', config, checkpoint, '--work-dir', out.parent, '--out', out]
        if not run_tool(folder / 'test.log', *command):
            return None
        out.replace(done)
    return json.loads(done.read_text())


def write_table(path: Path, key: str, rows: dict[str, dict[str, float] | None]) -> None:
    """Writes a table of all metrics of every value; cells of failed values are empty."""
    names = dict.fromkeys(name for metrics in rows.values() for name in metrics or {})
    with atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        table = csv.DictWriter(file, [key, *names])
        table.writeheader()
        table.writerows({key: text, **(metrics or {})} for text, metrics in rows.items())


def draw(key: str, metric: str, results: list[tuple[Any, float | None]], title: str) -> Figure:
    """Plots a metric over the values, on a numeric axis if all values are numbers.

    Args:
        key: Key of the values, the label of the x axis.
        metric: Name of the metric, the label of the y axis.
        results: Pairs of value and result; the result is None if the value failed.
        title: Title of the plot.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    values = [value for value, _ in results]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        points = sorted(results, key=itemgetter(0))
        if 0 < min(values) < max(values) / WIDE_RANGE:
            axes.set_xscale('log')
    else:
        points = [(i, result) for i, (_, result) in enumerate(results)]
        axes.set_xticks(range(len(values)), map(str, values), rotation=30, ha='right')
    found = [point for point in points if point[1] is not None]
    failed = [value for value, result in points if result is None]
    best = max(found, key=itemgetter(1))
    axes.plot(*zip(*found, strict=True), 'o-', color='k')
    axes.plot(*best, 'o', color='C2', markersize=10, label=f'best, {best[1]:.3f}')
    if failed:
        lowest = min(result for _, result in found)
        axes.plot(failed, [lowest] * len(failed), 'x', color='C3', markersize=10, label='failed')
    axes.legend()
    axes.set(xlabel=key, ylabel=metric, title=title)
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    """Trains and tests every value, and prints the results and the best value."""
    args = parse_args()
    name = args.config.stem
    work_dir = args.work_dir or Path('work_dirs') / name / f'sweep_{args.key}'
    if args.checkpoint:
        fetch(args.checkpoint)
    if args.metric:
        require_metric(load_config(args.config, args.cfg_options), args.metric)
    rows, metric = {}, args.metric
    for text, folder in prepare(args, work_dir).items():
        print(f'{args.key}={text}', flush=True)
        metrics = rows[text] = measure(folder, args.checkpoint, args.gpus)
        if metrics is None:
            continue
        metric = metric or next(iter(metrics))
        if metric not in metrics:
            raise InputError(f'the evaluation has no {metric}; it has {", ".join(metrics)}')
    results = {text: metrics and metrics[metric] for text, metrics in rows.items()}
    failed = [text for text, result in results.items() if result is None]
    if len(failed) == len(results):
        sys.exit('error: every value failed')

    write_table(work_dir / 'results.csv', args.key, rows)
    values = [(typed_value(text), result) for text, result in results.items()]
    with atomic_path(work_dir / 'results.png') as temporary:
        draw(args.key, metric, values, name).savefig(temporary)
    width = max(map(len, [args.key, *results])) + 2
    print(f'\n{args.key:<{width}}{metric}')
    for text, result in results.items():
        print(f'{text:<{width}}{"failed" if result is None else f"{result:.4f}"}')
    best = max(results.keys() - failed, key=results.get)
    print(f'best: {args.key}={best}, {metric} {results[best]:.4f}')
    print(f'table: {work_dir / "results.csv"}, plot: {work_dir / "results.png"}')
    if failed:
        sys.exit(f'error: failed: {", ".join(failed)}; the same command tries them again')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
