# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Trains and tests a config for each value of one of its keys, and compares a metric."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mmengine.config import Config

from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import fetch, latest_checkpoint
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.evaluation.coco_evaluation import metric_names
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.config import load_config, typed_value
from kapao_mm.utils.project_files import project_dir

WIDE_RANGE = 50  # values that differ by more than this factor get a logarithmic axis
Rows = dict[str, dict[str, float] | None]  # metrics by the text of the value; None if it failed


def run_sweep(
    config: Path,
    key: str,
    values: Sequence[str],
    checkpoint: Path | None,
    metric: str | None,
    gpus: int,
    work_dir: Path,
    cfg_options: dict[str, Any],
) -> tuple[str | None, Rows]:
    """Trains and tests every value that is not finished yet, and prints the progress.

    Arguments are those of ``sweep.py``, with ``values`` as texts.

    Returns:
        The metric that is compared, None if every value failed, and the metrics of each value.

    Raises:
        InputError: If the config has no such key, the evaluation has no such metric, or see
            :func:`write_configs`.
    """
    if checkpoint:
        fetch(checkpoint)
        cfg_options = cfg_options | dict(load_from=str(checkpoint.absolute()))
    cfg = load_config(config, cfg_options)
    require_key(cfg, key)
    if metric:
        require_metric(cfg, metric)
    rows = {}
    for text, folder in write_configs(config, key, values, cfg_options, work_dir).items():
        print(f'{key}={text}', flush=True)
        metrics = rows[text] = measure(folder, checkpoint, gpus)
        if metrics:
            metric = metric or next(iter(metrics))
            if metric not in metrics:
                raise InputError(f'the evaluation has no {metric}; it has {", ".join(metrics)}')
    return metric if any(rows.values()) else None, rows


def require_key(cfg: Config, key: str) -> None:
    """Checks that a config has a key, because setting an unknown key may have no effect.

    Raises:
        InputError: If the config does not have the key.
    """
    value = cfg
    try:
        for part in key.split('.'):
            value = value[int(part) if isinstance(value, (list, tuple)) else part]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f'{cfg.filename} has no {key}; if its parent accepts that key, set it first: '
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
        categories = read_metainfo(dataset.metainfo)['categories']
        kind, box_ap = evaluator.get('iou_type', 'keypoints'), evaluator.get('box_ap', True)
        prefix = evaluator.get('prefix', KAPAOMetric.default_prefix)
        known = [f'{prefix}/{metric}' for metric in metric_names(categories, kind, box_ap)]
        if name not in known:
            raise InputError(f'the evaluation has no {name}; it has {", ".join(known)}')


def write_configs(
    config: Path, key: str, values: Sequence[str], cfg_options: dict[str, Any], work_dir: Path
) -> dict[str, Path]:
    """Writes the config of every value to a folder of its own.

    Returns:
        The folder of each value, by the text of the value.

    Raises:
        InputError: If two values would share a folder, or a folder contains the config of another
            run.
    """
    folders = {text: work_dir / re.sub(r'[^\w.+-]+', '_', text) for text in values}
    if len(set(folders.values())) < len(values):
        raise InputError(f'--values {" ".join(values)}: two of them would share a folder')
    for text, folder in folders.items():
        content = load_config(config, cfg_options | {key: typed_value(text)}).pretty_text
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
        tools, config, train_dir = project_dir() / 'tools', folder / 'config.py', folder / 'train'
        if not checkpoint:
            command = [tools / 'train.py', config, '--work-dir', train_dir, '--resume']
            if gpus > 1:
                launch = [tools / 'misc/launch.py', str(gpus)]
                command = [*launch, *command, '--launcher', 'pytorch']
            if not run_tool(folder / 'train.log', *command):
                return None
            checkpoint = latest_checkpoint(train_dir)
        out = folder / 'test' / done.name
        command = [tools / 'test.py', config, checkpoint, '--work-dir', out.parent, '--out', out]
        if not run_tool(folder / 'test.log', *command):
            return None
        out.replace(done)
    return json.loads(done.read_text())


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


def write_table(path: Path, key: str, rows: Rows) -> None:
    """Writes a table (.csv) of all metrics of every value; cells of failed values are empty."""
    names = dict.fromkeys(name for metrics in rows.values() for name in metrics or {})
    with atomic_path(path) as temporary, temporary.open('w', newline='') as file:
        table = csv.DictWriter(file, [key, *names])
        table.writeheader()
        table.writerows({key: text, **(metrics or {})} for text, metrics in rows.items())
    print(f'table: {path}')


def draw(key: str, metric: str, rows: Rows, title: str) -> Figure:
    """Plots a metric over the values, on a numeric axis if all values are numbers.

    Args:
        key: Key of the values, the label of the x axis.
        metric: Name of the metric, the label of the y axis.
        rows: Metrics of each value, of which at least one succeeded.
        title: Title of the plot.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    values = [typed_value(text) for text in rows]
    results = [metrics and metrics[metric] for metrics in rows.values()]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        points = sorted(zip(values, results, strict=True), key=itemgetter(0))
        if 0 < min(values) < max(values) / WIDE_RANGE:
            axes.set_xscale('log')
    else:
        points = list(enumerate(results))
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
