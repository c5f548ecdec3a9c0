# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Shows or saves samples of a dataset as network inputs, with their pose and keypoint objects."""

import argparse
import os
from pathlib import Path
from typing import Any

from kapao_mm.datasets.metainfo import check_keypoint_counts
from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line, which has the flags of MMPose's tools/misc/browse_dataset.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--phase', choices=['train', 'val', 'test'], default='train', help='[train]'
    )
    parser.add_argument(
        '--mode',
        choices=['transformed', 'original'],
        default='transformed',
        help='draw network inputs, or original images [transformed]',
    )
    parser.add_argument('--num', type=int, default=20, help='number of samples, spread evenly [20]')
    parser.add_argument(
        '--out-dir',
        '--output-dir',
        type=Path,
        help='folder for the pictures [work_dirs/CONFIG/browse_dataset if none is shown]',
    )
    parser.add_argument('--not-show', action='store_true', help='save pictures, open no window')
    parser.add_argument('--show-interval', type=float, default=2, help='seconds per picture [2]')
    add_config_options(parser, 'data_root=DIR input_size=640')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
from mmengine.dataset import BaseDataset
from mmpose.registry import DATASETS, MODELS

from kapao_mm import register_all_modules
from kapao_mm.utils.config import load_config
from kapao_mm.visualization.object_visualizer import ObjectVisualizer

# Transforms that neither change the image nor move labels.
NEUTRAL = ('CheckedLoadImage', 'LoadImage', 'KeypointConverter', 'PackKAPAOInputs')


def main() -> None:
    """Draws the samples, and prints where the pictures are."""
    args = parse_args()
    register_all_modules()
    dataset, visualizer = build(args)
    show, folder = destination(args)
    count = min(max(args.num, 1), len(dataset))
    numbers = np.zeros(2, int)
    for index in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
        item = dataset[index]
        name = f'{args.phase}_{index:06d}_{Path(item["data_samples"].img_path).stem}'
        out_file = str(folder / f'{name}.jpg') if folder else None
        options = dict(show=show, wait_time=args.show_interval, out_file=out_file)
        numbers += visualizer.draw_sample(name, item, **options)
    print(
        f'{args.phase}: {count} of {len(dataset)} samples, with {numbers[0]} pose objects and '
        f'{numbers[1]} keypoint objects'
    )
    if folder:
        print(f'pictures: {folder}')
    print(f'Next: kapao train {args.config}')


def build(args: argparse.Namespace) -> tuple[BaseDataset, ObjectVisualizer]:
    """Builds the dataset of a phase and its visualizer.

    Raises:
        InputError: If the phase has no dataset, or the model has another number of keypoints.
    """
    cfg = load_config(args.config, args.cfg_options)
    loader = cfg.get(f'{args.phase}_dataloader')
    if not loader:
        raise InputError(f'{args.config} has no {args.phase}_dataloader: give another --phase')
    dataset = DATASETS.build(prepare(loader.dataset, args.mode))
    head, metainfo = MODELS.build(cfg.model.head), dataset.metainfo
    check_keypoint_counts(head.keypoint_counts, metainfo, f'{args.phase}_dataloader')
    return dataset, ObjectVisualizer(head, metainfo)


def prepare(dataset: dict[str, Any], mode: str) -> dict[str, Any]:
    """Adapts the config of a dataset or a wrapper to a ``--mode``.

    The image cache is disabled, and labels are moved with the image, also in test pipelines, whose
    labels otherwise stay in px of the original image.
    """
    prepared = dict(dataset)
    if 'image_cache' in prepared:
        prepared['image_cache'] = None
    if 'dataset' in prepared:
        prepared['dataset'] = prepare(prepared['dataset'], mode)
    if 'datasets' in prepared:
        prepared['datasets'] = [prepare(inner, mode) for inner in prepared['datasets']]
    if 'pipeline' in prepared:
        prepared['pipeline'] = [
            step | dict(move_labels=True) if step['type'] == 'Letterbox' else step
            for step in map(dict, prepared['pipeline'])
            if mode == 'transformed' or step['type'] in NEUTRAL
        ]
    return prepared


def destination(args: argparse.Namespace) -> tuple[bool, Path | None]:
    """Returns whether to show pictures, and the folder to save them in or None."""
    display = os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    show = bool(display) and not args.not_show
    if args.out_dir or show:
        return show, args.out_dir
    return show, Path('work_dirs', Path(args.config).stem, 'browse_dataset')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
