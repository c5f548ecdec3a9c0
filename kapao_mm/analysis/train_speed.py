# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how each switch for speed or memory changes the training of a config.

Each row of the table is measured in a separate process. All rows use the same images and weights,
and a learning rate of 0, so that all steps compute the same.
"""

import copy
import math
import random
import statistics
import time
from collections.abc import Sequence
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpose.registry import DATASETS, MODELS
from torch.utils.data import DataLoader

from kapao_mm.datasets.toy import KEYPOINTS
from kapao_mm.errors import InputError

from . import timing
from .report import live_table
from .training_data import NUM_IMAGES, load_training_config, use_drawn_images

MARGIN = 0.02  # smaller relative gains are considered noise
BASELINE = {
    'model.channels_last': False,
    'model.checkpoint_activations': False,
    'model.compile_network': False,
    'optim_wrapper.precision': 'float32',
}
SWITCHES = {
    'channels_last': {'model.channels_last': True},
    'bfloat16': {'optim_wrapper.precision': 'bfloat16'},
    'float16': {'optim_wrapper.precision': 'float16'},
    'checkpoint_activations': {'model.checkpoint_activations': True},
    'compile_network': {'model.compile_network': True},
}
LOADER_SWITCH = 'image_cache'  # affects data loading, not the training step


def benchmark(
    config: str,
    iters: int,
    batch_size: int | None,
    input_size: int | None,
    switches: list[str] | None,
    real: bool,
    cfg_options: dict[str, Any],
) -> tuple[dict[str, Any], None]:
    """Measures the baseline and each switch, and prints a table of steps and one of data loading.

    Arguments are those of ``benchmark.py train``.

    Returns:
        The figures, and no plot.

    Raises:
        InputError: If the optimizer wrapper is not KAPAOOptimWrapper, or the config combines
            datasets.
    """
    cfg = load_training_config(config, cfg_options, input_size)
    if cfg.optim_wrapper.type != 'KAPAOOptimWrapper':
        raise InputError(
            f'{config} trains with {cfg.optim_wrapper.type}; set optim_wrapper.type to '
            'KAPAOOptimWrapper, whose precision is compared'
        )
    loader = cfg.train_dataloader
    loader.batch_size = batch_size or loader.batch_size
    loader.pin_memory = False
    switches = switches or default_switches()
    machine = timing.describe_machine()
    kind = 'GPU memory' if torch.cuda.is_available() else 'RAM above that before the first step'
    print(
        f'\n{config}: input {cfg.input_size} px, batch {loader.batch_size}, median of {iters} '
        f'iterations\n{machine}\npeak: {kind}, of the measured steps; loss: of the first step\n'
    )
    report = dict(
        config=config,
        input_size=cfg.input_size,
        batch_size=loader.batch_size,
        iterations=iters,
        images='of the config' if real else 'drawn',
        machine=machine,
    )
    with TemporaryDirectory() as folder:
        set_images(cfg, None if real else Path(folder))
        report['steps'] = measure_switches(cfg, [s for s in switches if s in SWITCHES], iters)
        if LOADER_SWITCH in switches:
            report['loading'] = compare_loading(cfg, iters)
    return report, None


def default_switches() -> list[str]:
    """Returns all switches that run on this machine."""
    switches = [*SWITCHES, LOADER_SWITCH]
    return [name for name in switches if name != 'float16' or torch.cuda.is_available()]


def set_images(cfg: Config, folder: Path | None) -> None:
    """Limits the training data to whole batches of few images, drawn ones if ``folder`` is given.

    Args:
        cfg: Config to change.
        folder: Folder for drawn images; None for the images of the config.
    """
    data, batch_size = cfg.train_dataloader.dataset, cfg.train_dataloader.batch_size
    data.indices = math.ceil(NUM_IMAGES / batch_size) * batch_size
    if folder:
        use_drawn_images(data, folder, data.indices)
        cfg.model.head.num_keypoints = len(KEYPOINTS)


def measure_switches(cfg: Config, switches: Sequence[str], iters: int) -> dict[str, dict]:
    """Measures and prints the baseline, each switch, and the fastest and smallest combinations."""
    rows: dict[str, dict] = {}
    with live_table('training step', *COLUMNS) as add:

        def measure(title: str, names: Sequence[str] = ()) -> None:
            options = {k: v for name in names for k, v in SWITCHES[name].items()}
            rows[title] = timing.run_alone(measure_step, with_options(cfg, options), iters)
            label = f'{title}: {" + ".join(names)}' if len(names) > 1 else title
            add(label, *cells(rows[title], rows['baseline']))
            if 'error' in rows[title]:
                print(f'{title} failed: {rows[title]["error"]}')

        measure('baseline')
        for name in switches:
            measure(name, [name])
        for title, key, sign in (('fastest', 'images_per_s', 1), ('smallest', 'peak_bytes', -1)):
            names = helping(rows, key, sign)
            if len(names) > 1:
                measure(title, names)
    return rows


COLUMNS = ('images/s', 'ratio', 'peak GB', 'loss', 'differs by')


def cells(row: dict, baseline: dict) -> list[str]:
    """Formats the figures of a row of the table."""
    if 'error' in row:
        return ['failed']
    ratio = difference = '-'
    if 'loss' in baseline:
        ratio = f'{row["images_per_s"] / baseline["images_per_s"]:.2f}'
        difference = f'{abs(row["loss"] / baseline["loss"] - 1):.1e}'
    return [
        f'{row["images_per_s"]:.2f}',
        ratio,
        f'{row["peak_bytes"] / 1e9:.3f}',
        f'{row["loss"]:.6g}',
        difference,
    ]


def helping(rows: dict[str, dict], key: str, sign: int) -> list[str]:
    """Returns the switches that improve a figure over the baseline by more than the margin.

    Of several switches that set the same option, only the best is returned.

    Args:
        rows: Measured rows by name.
        key: Key of the figure.
        sign: 1 if larger is better, -1 if smaller is better.
    """
    figures = {name: sign * row[key] for name, row in rows.items() if key in row}
    least = figures.get('baseline', -math.inf) * (1 + sign * MARGIN)
    better = [name for name in SWITCHES if figures.get(name, -math.inf) > least]
    best = {}  # option -> switch
    for name in sorted(better, key=figures.get):
        best |= dict.fromkeys(SWITCHES[name], name)
    return [name for name in SWITCHES if name in best.values()]


def with_options(cfg: Config, options: dict[str, Any]) -> Config:
    """Returns a copy of a config with the baseline's options and others that replace them."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(BASELINE | options)
    return cfg


def measure_step(cfg: Config, iters: int) -> dict[str, float]:
    """Measures training steps: images/s, peak memory (bytes) and the loss of the first step."""
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, drop_last=True)
    device = timing.find_device()
    model = build_model(cfg).to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.param_groups:
        group['lr'] = 0.0
    batches = cycle(
        list(islice(chain.from_iterable(repeat(build_loader(cfg.train_dataloader))), min(iters, 4)))
    )
    losses = []

    def run(part: timing.Part) -> None:
        batch = next(batches)
        with part('step'):
            logs = model.train_step(batch, optim_wrapper)
            losses.append(logs['loss'].item())  # waits for the forward pass

    before = 0 if device.type == 'cuda' else timing.memory('VmRSS')
    seconds = timing.time_parts(run, iters, device)['step']
    speed = cfg.train_dataloader.batch_size / statistics.median(seconds)
    return dict(images_per_s=speed, peak_bytes=timing.peak(device) - before, loss=losses[0])


def build_model(cfg: Config) -> BaseModel:
    """Builds the model with random weights that are the same for all switches.

    They are taken from a model without switches, because channels_last changes the initialization.
    """
    torch.manual_seed(0)
    plain = MODELS.build(with_options(cfg, {}).model)
    plain.init_weights()
    model = MODELS.build(cfg.model)
    model.load_state_dict(plain.state_dict())
    return model


def build_loader(loader: dict) -> DataLoader:
    """Builds the training dataloader with a fixed order and augmentation."""
    random.seed(0)
    np.random.seed(0)
    return Runner.build_dataloader(loader, seed=0)


def compare_loading(cfg: Config, iters: int) -> dict[str, float | str]:
    """Measures and prints data loading; if it fails, the result has the message as ``error``."""
    speeds = timing.run_alone(measure_loading, with_options(cfg, {}), iters)
    workers = cfg.train_dataloader.num_workers
    if 'error' in speeds:
        print(f'\ndata loading failed: {speeds["error"]}')
        return speeds
    with live_table(f'data loading, {workers} workers', 'images/s') as add:
        for name, speed in speeds.items():
            add(name, f'{speed:.1f}')
    return speeds


def measure_loading(cfg: Config, iters: int) -> dict[str, float]:
    """Measures data loading alone, from files and from the image cache in RAM: images/s."""
    speeds = {}
    for name, place in (('from files', None), ('image_cache=ram', 'ram')):
        loader = copy.deepcopy(cfg.train_dataloader)
        loader.dataset.image_cache = place
        first = timing.WARM_UP * max(loader.num_workers, 1)  # batches while the workers start
        images = (first + iters) * loader.batch_size
        dataset = DATASETS.build(loader.dataset)
        times = math.ceil(images / len(dataset))
        loader.dataset = dict(type='RepeatDataset', dataset=dataset, times=times)
        batches = iter(build_loader(loader))
        for _ in range(first):
            next(batches)
        start = time.perf_counter()
        for _ in range(iters):
            next(batches)
        speeds[name] = iters * loader.batch_size / (time.perf_counter() - start)
    return speeds
