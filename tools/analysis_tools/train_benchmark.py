# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how each switch for speed or memory changes the training of a config.

Each row of the table is measured in a separate process. All rows use the same images and weights,
and a learning rate of 0, so that all steps compute the same. Without --real the images are
synthetic.
"""

import argparse
import copy
import json
import math
import random
import statistics
import tempfile
import time
from itertools import chain, cycle, islice, repeat
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error

SWITCHES = {
    'channels_last': {'model.channels_last': True},
    'bfloat16': {'optim_wrapper.precision': 'bfloat16'},
    'float16': {'optim_wrapper.precision': 'float16'},
    'checkpoint_activations': {'model.checkpoint_activations': True},
    'compile_network': {'model.compile_network': True},
}
LOADER_SWITCH = 'image_cache'  # affects data loading, not the training step


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--iters', type=int, default=10, help='measured iterations [10]')
    parser.add_argument('--batch-size', type=int, help='images an iteration [the config]')
    parser.add_argument('--input-size', type=int, help='px [the config]')
    parser.add_argument(
        '--switches',
        nargs='+',
        choices=[*SWITCHES, LOADER_SWITCH],
        help='what to measure besides the baseline [all that run on this machine]',
    )
    parser.add_argument('--real', action='store_true', help="the config's images, not drawn ones")
    parser.add_argument('--out', type=Path, help='write the figures to this file (.json)')
    add_config_options(parser, 'data_root=DIR train_dataloader.num_workers=4')
    parser.add_argument('--job', type=json.loads, help=argparse.SUPPRESS)  # job of a subprocess
    args = parser.parse_args()
    if args.iters < 1:
        parser.error('--iters must be at least 1')
    return args


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpose.registry import DATASETS, MODELS
from torch.utils.data import DataLoader

from kapao_mm import register_all_modules
from kapao_mm.analysis.timing import (
    WARM_UP,
    Part,
    describe_machine,
    find_device,
    memory,
    peak,
    run_alone,
    time_parts,
    write_report,
)
from kapao_mm.datasets.toy import KEYPOINTS, make_toy_dataset
from kapao_mm.utils.config import load_config

PICTURES = 32  # minimum number of images
MARGIN = 0.02  # smaller relative gains are considered noise
BASELINE = {
    'model.channels_last': False,
    'model.checkpoint_activations': False,
    'model.compile_network': False,
    'optim_wrapper.precision': 'float32',
}


def default_switches() -> list[str]:
    """Returns all switches that run on this machine."""
    switches = [*SWITCHES, LOADER_SWITCH]
    return [name for name in switches if name != 'float16' or torch.cuda.is_available()]


def benchmark_config(args: argparse.Namespace, folder: Path | None = None) -> Config:
    """Loads the config and applies the command line.

    Args:
        args: Parsed command line.
        folder: Folder of a toy dataset to use instead of the config's images.

    Raises:
        InputError: If the optimizer wrapper is not KAPAOOptimWrapper, or the config combines
            datasets.
    """
    sizes = dict(input_size=args.input_size) if args.input_size else {}
    cfg = load_config(args.config, args.cfg_options | sizes)
    if cfg.optim_wrapper.type != 'KAPAOOptimWrapper':
        raise InputError(
            f'{args.config} trains with {cfg.optim_wrapper.type}; set optim_wrapper.type to '
            'KAPAOOptimWrapper, whose precision is compared'
        )
    loader = cfg.train_dataloader
    loader.batch_size = args.batch_size or loader.batch_size
    loader.pin_memory = False
    loader.dataset = loader.dataset.get('dataset', loader.dataset)  # without its RepeatDataset
    if 'datasets' in loader.dataset:
        raise InputError('the config combines datasets; measure the config of one of them')
    loader.dataset.indices = num_pictures(cfg)
    if folder:
        loader.dataset.update(
            metainfo=dict(from_file='configs/_base_/datasets/coco.py'),
            data_root=str(folder),
            ann_file='annotations/person_keypoints_train.json',
            data_prefix=dict(img='train2017'),
        )
        cfg.model.head.num_keypoints = len(KEYPOINTS)
    return cfg


def num_pictures(cfg: Config) -> int:
    """Returns the number of images to use, a multiple of the batch size."""
    batch_size = cfg.train_dataloader.batch_size
    return math.ceil(PICTURES / batch_size) * batch_size


def build_loader(loader: dict) -> DataLoader:
    """Builds the training dataloader with a fixed order and augmentation."""
    random.seed(0)
    np.random.seed(0)
    return Runner.build_dataloader(loader, seed=0)


def build_model(cfg: Config) -> BaseModel:
    """Builds the model with random weights that are the same for all switches.

    They are taken from a model without switches, because channels_last changes the initialization.
    """
    baseline = copy.deepcopy(cfg)
    baseline.merge_from_dict(BASELINE)
    torch.manual_seed(0)
    plain = MODELS.build(baseline.model)
    plain.init_weights()
    model = MODELS.build(cfg.model)
    model.load_state_dict(plain.state_dict())
    return model


def measure_step(cfg: Config, iters: int) -> dict[str, float]:
    """Measures training steps: images/s, peak memory (bytes) and the loss of the first step."""
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, drop_last=True)
    device = find_device()
    model = build_model(cfg).to(device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.param_groups:
        group['lr'] = 0.0
    batches = cycle(
        list(islice(chain.from_iterable(repeat(build_loader(cfg.train_dataloader))), min(iters, 4)))
    )

    losses = []

    def run(part: Part) -> None:
        batch = next(batches)
        with part('step'):
            logs = model.train_step(batch, optim_wrapper)
            losses.append(logs['loss'].item())  # waits for the forward pass

    before = 0 if device.type == 'cuda' else memory('VmRSS')
    seconds = time_parts(run, iters, device)['step']
    speed = cfg.train_dataloader.batch_size / statistics.median(seconds)
    return dict(images_per_s=speed, peak_bytes=peak(device) - before, loss=losses[0])


def measure_loading(cfg: Config, iters: int) -> dict[str, float]:
    """Measures data loading alone, from files and from the image cache in RAM: images/s."""
    speeds = {}
    for name, place in (('from files', None), ('image_cache=ram', 'ram')):
        loader = copy.deepcopy(cfg.train_dataloader)
        loader.dataset.image_cache = place
        first = WARM_UP * max(loader.num_workers, 1)  # batches while the workers start
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


def run_job(args: argparse.Namespace) -> dict[str, float]:
    """Measures one row of the table in a subprocess."""
    register_all_modules()
    folder = args.job['folder']
    cfg = benchmark_config(args, Path(folder) if folder else None)
    cfg.merge_from_dict(BASELINE | args.job['options'])
    return (measure_loading if args.job['loading'] else measure_step)(cfg, args.iters)


def start_job(folder: Path | None, options: dict, loading: bool = False) -> dict[str, float | str]:
    """Starts a subprocess for one row; if it fails, the row has the message as ``error``."""
    folder = str(folder) if folder else None
    return run_alone(__file__, dict(folder=folder, options=options, loading=loading))


def measure_steps(folder: Path | None, switches: list[str]) -> dict[str, dict]:
    """Measures and prints the rows of training steps."""
    rows = {}

    def row(name: str, options: dict, remark: str = '') -> None:
        rows[name] = start_job(folder, options)
        print(format_row(name, rows[name], rows['baseline']) + remark, flush=True)

    row('baseline', {})
    for name in switches:
        row(name, SWITCHES[name])
    for title, key, sign in (('fastest', 'images_per_s', 1), ('smallest', 'peak_bytes', -1)):
        names = helping(rows, key, sign)
        if len(names) > 1:
            options = {k: v for name in names for k, v in SWITCHES[name].items()}
            row(title, options, f'  {" + ".join(names)}')
    return rows


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


def format_row(name: str, row: dict, baseline: dict) -> str:
    """Formats a row of the table."""
    if 'error' in row:
        return f'{name:<24}  failed: {row["error"]}'
    speed, loss = row['images_per_s'], row['loss']
    line = f'{name:<24}{speed:>9.2f}'
    line += f'{speed / baseline["images_per_s"]:>9.2f}' if 'loss' in baseline else f'{"-":>9}'
    line += f'{row["peak_bytes"] / 1e9:>10.3f}{loss:>12.6g}'
    if 'loss' in baseline:
        line += f'{abs(loss / baseline["loss"] - 1):>12.1e}'
    return line


def main() -> None:
    """Measures and prints all rows, or runs the job of a subprocess."""
    args = parse_args()
    args.switches = args.switches or default_switches()
    if args.job:
        print(json.dumps(run_job(args)))
        return
    if args.out:
        check_writable(args.out, ['.json'])
    cfg = benchmark_config(args)
    batch, size = cfg.train_dataloader.batch_size, cfg.input_size
    report = dict(
        config=args.config,
        input_size=size,
        batch_size=batch,
        iterations=args.iters,
        images='of the config' if args.real else 'drawn',
        machine=describe_machine(),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = None if args.real else Path(temporary)
        if folder:
            make_toy_dataset(folder, 'crowd', num_train=num_pictures(cfg), num_val=1)
        kind = 'GPU memory' if torch.cuda.is_available() else 'RAM above that before the first step'
        print(
            f'\n{args.config}: input {size} px, batch {batch}, median of {args.iters} iterations\n'
            f'{report["machine"]}\n'
            f'peak: {kind}, of the measured steps; loss: of the first step\n\n'
            f'{"training step":<24}{"images/s":>9}{"ratio":>9}{"peak GB":>10}{"loss":>12}'
            f'{"differs by":>12}'
        )
        report['steps'] = measure_steps(folder, [s for s in args.switches if s in SWITCHES])
        if LOADER_SWITCH in args.switches:
            report['loading'] = start_job(folder, {}, loading=True)
            workers = cfg.train_dataloader.num_workers
            print(f'\n{f"data loading, {workers} workers":<24}{"images/s":>9}')
            for name, speed in report['loading'].items():
                print(f'{name:<24}{speed:>9.1f}' if name != 'error' else f'failed: {speed}')
    if args.out:
        write_report(report, args.out)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
