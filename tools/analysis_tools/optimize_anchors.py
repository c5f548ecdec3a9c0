# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how well a config's anchors fit its training data, and finds better ones if needed.

MMDetection's tool of the same name optimizes the IoU of YOLO anchors on three levels. KAPAO matches
anchors by the ratio of the sides instead.
"""

import argparse
import os
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument(
        '--target-recall',
        type=float,
        help="find anchors if the recall of a kind of objects is lower [the search's own target]",
    )
    parser.add_argument('--force', action='store_true', help='find anchors in any case')
    parser.add_argument(
        '--out', type=Path, help='write them to this file, a config that inherits CONFIG'
    )
    add_config_options(parser, 'data_root=DIR input_size=640')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import mmengine
import numpy as np
from mmengine.config import Config
from mmpose.registry import DATASETS

from kapao_mm import register_all_modules
from kapao_mm.analysis.anchors import TARGET_RECALL, find_anchors, measure_fit
from kapao_mm.datasets.transforms.affine import MAX_ASPECT, MIN_SIDE
from kapao_mm.utils.config import inner_datasets, load_config

NUM_SCALES = 19  # steps of 0.1 for the published scale range of 0.1 to 1.9
POSES, TRAINING, POINTS = 'pose objects', '  in training', 'keypoint objects'
LEGEND = f"""
recall: share that an anchor matches; anchors: how many do; P3...: share that this level learns
in training: at {NUM_SCALES} scales of the config's range, but whole (mosaic and crops cut some)
keypoint objects: one of each size"""


def pose_sides(cfg: dict, input_size: int) -> tuple[np.ndarray, int]:
    """Returns the sides of a dataset's pose objects and its number of images.

    Args:
        cfg: Config of the dataset.
        input_size: Longer side of the network input, px.

    Returns:
        Sides (w, h), (n, 2) px of the network input, and the number of images.
    """
    dataset = DATASETS.build({k: v for k, v in cfg.items() if k not in ('pipeline', 'image_cache')})
    images = mmengine.load(dataset.ann_file)['images']
    long_sides = {image['id']: max(image['width'], image['height']) for image in images}
    sides = [np.zeros((0, 2))]
    for i in range(len(dataset)):
        sample = dataset.get_data_info(i)
        scale = input_size / long_sides[sample['img_id']]
        sides.append((sample['bbox'][:, 2:] - sample['bbox'][:, :2]) * scale)
    return np.concatenate(sides), len(dataset)


def scale_sides(sides: np.ndarray, transforms: list[dict], input_size: int) -> np.ndarray:
    """Scales sides as the augmentation does, at evenly spaced scales of its range.

    Args:
        sides: Sides (w, h) without augmentation, (n, 2) px of the network input.
        transforms: Configs of the training transforms.
        input_size: Longer side of the network input, px.

    Returns:
        Scaled sides clipped to the input, (m, 2) px, without objects that training removes. If
        training does not scale, the given sides.
    """
    for transform in transforms:
        if 'scale_range' in transform:
            scales = np.linspace(*transform['scale_range'], NUM_SCALES)
            scaled = (sides * scales[:, None, None]).clip(max=input_size).reshape(-1, 2)
            short, long = scaled.min(1), scaled.max(1)
            return scaled[(short > MIN_SIDE) & (long < MAX_ASPECT * short)]
    return sides


def read_sides(cfg: Config) -> tuple[dict[str, np.ndarray], int]:
    """Reads the sides of the objects in the training data of a config.

    Each image counts once, even if a wrapper repeats it.

    Returns:
        Sides (w, h) by kind of object, each (n, 2) px of the network input, and the number of
        images.

    Raises:
        InputError: If the config is not for training KAPAO, or there are no pose objects.
    """
    try:
        training_data, sizes = cfg.train_dataloader.dataset, cfg.model.head.keypoint_size
        input_size = cfg.input_size
    except AttributeError as error:
        raise InputError(
            f'{cfg.filename} is no config to train KAPAO with ({error}); it needs '
            'train_dataloader.dataset, model.head and input_size'
        ) from error
    poses, training, images = [], [], 0
    for dataset, transforms in inner_datasets(training_data):
        sides, count = pose_sides(dataset, input_size)
        poses.append(sides)
        training.append(scale_sides(sides, transforms, input_size))
        images += count
    sizes = np.unique(sizes) * input_size
    kinds = {
        POSES: np.concatenate(poses),
        TRAINING: np.concatenate(training),
        POINTS: np.stack((sizes, sizes), 1),
    }
    if not len(kinds[TRAINING]):
        raise InputError(f'the {images} training images have no box to fit anchors to')
    return kinds, images


def print_fit(title: str, kinds: dict[str, np.ndarray], anchors: np.ndarray, head: dict) -> float:
    """Prints how well anchors fit each kind of object, and returns the lowest recall."""
    names = [f'P{int(stride).bit_length() - 1}' for stride in head['strides']]
    print(f'\n{title:<20}{"recall":>8}{"anchors":>9}' + ''.join(f'{name:>7}' for name in names))
    fits = {
        name: measure_fit(sides, anchors, head['assigner']['max_ratio'])
        for name, sides in kinds.items()
    }
    for name, fit in fits.items():
        levels = ''.join(f'{share:>7.3f}' for share in fit.levels)
        print(f'{name:<20}{fit.recall:>8.4f}{fit.anchors:>9.2f}{levels}')
    return min(fit.recall for fit in fits.values())


def as_config(anchors: np.ndarray) -> str:
    """Formats anchors (L, Na, 2) as lines of a config."""
    levels = [', '.join(str(tuple(anchor)) for anchor in level) for level in anchors.tolist()]
    rows = '\n'.join(f'            [{level}],' for level in levels)
    return f'model = dict(\n    head=dict(\n        anchors=[\n{rows}\n        ],\n    ),\n)'


def main() -> None:
    """Measures the anchors, and finds others if the recall is too low."""
    args = parse_args()
    if args.target_recall is None:
        args.target_recall = TARGET_RECALL
    if args.out and args.out.exists():
        raise InputError(f'--out {args.out} exists; give another name')
    if args.out:
        check_writable(args.out, ['.py'])
    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    kinds, images = read_sides(cfg)
    head = cfg.model.head
    current = np.array(head.anchors, float)  # (L, Na, 2)
    print(
        f'{args.config}: {len(kinds[POSES])} pose objects in {images} images, input '
        f'{cfg.input_size} px, ratio below {head.assigner.max_ratio:g}{LEGEND}'
    )
    recall = print_fit('anchors now', kinds, current, head)
    if recall >= args.target_recall and not args.force:
        print(f'\nThey fit: no recall is below {args.target_recall:g} (--force finds others).')
        return

    sought = [kinds[TRAINING], kinds[POINTS]]
    found = find_anchors(sought, current, head.strides, head.assigner.max_ratio)
    print_fit('anchors found', kinds, found, head)
    snippet = as_config(found)
    print(f'\n{snippet}')
    if args.out:
        base = os.path.relpath(args.config, args.out.parent)
        with atomic_path(args.out) as temporary:
            temporary.write_text(f'_base_ = {base!r}\n\n{snippet}\n')
        again = ', with the same --cfg-options' if args.cfg_options else ''
        print(f'\nNext: kapao train {args.out}{again}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
