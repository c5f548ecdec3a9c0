# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time of each part of loading a training sample, and the time of the loss.

Samples are loaded in one process. Without --real the images are synthetic, 640 x 480 px. If the
config uses MosaicScaleTranslate, which draws only the visible part of a mosaic, samples are also
created with MMPose's mosaic for comparison. The loss, including objects and matches, is computed
for random network outputs and random people.
"""

import argparse
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error, input_shape


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--samples', type=int, default=100, help='measured [%(default)s]')
    parser.add_argument('--input-size', type=int, help='of the samples, px [the config]')
    parser.add_argument('--real', action='store_true', help="the config's images, not drawn ones")
    parser.add_argument('--batch-size', type=int, default=16, help='of the loss [%(default)s]')
    parser.add_argument(
        '--loss-size', type=input_shape, default=(320, 320), help='its input, px (h x w) [320]'
    )
    parser.add_argument(
        '--people', type=int, default=3, help='in an image of the loss [%(default)s]'
    )
    parser.add_argument('--runs', type=int, default=30, help='of the loss, measured [%(default)s]')
    parser.add_argument('--out', type=Path, help='write the figures to this file (.json)')
    add_config_options(parser, 'data_root=DIR')
    args = parser.parse_args()
    if min(args.samples, args.batch_size, args.people, args.runs) < 1:
        parser.error('--samples, --batch-size, --people and --runs must be at least 1')
    return args


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmpose.registry import DATASETS, MODELS
from torch import Tensor

from kapao_mm import register_all_modules
from kapao_mm.analysis.timing import (
    Part,
    describe_machine,
    find_device,
    summarise,
    time_parts,
    write_report,
)
from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.datasets.transforms import MosaicScaleTranslate, TracedMosaic
from kapao_mm.models.heads import KAPAOHead
from kapao_mm.utils.config import load_config

PICTURES = 32
LABELLED = 0.85  # share of labeled keypoints for the loss


def build_dataset(cfg: Config, folder: Path | None) -> BaseDataset:
    """Builds the training dataset of a config, without a RepeatDataset around it.

    Args:
        cfg: The config.
        folder: Folder for a toy dataset to use instead of the config's images.

    Raises:
        InputError: If the config combines datasets.
    """
    data = cfg.train_dataloader.dataset
    data = data.get('dataset', data)  # without its RepeatDataset
    if 'datasets' in data:
        raise InputError('the config combines datasets; measure the config of one of them')
    if folder:
        make_toy_dataset(folder, 'crowd', num_train=PICTURES, num_val=1)
        people = dict(from_file='configs/_base_/datasets/coco.py')
        data.update(metainfo=people, data_root=str(folder), data_prefix=dict(img='train2017'))
        data.ann_file = 'annotations/person_keypoints_train.json'
    return DATASETS.build(data)


def measure_loading(dataset: BaseDataset, samples: int) -> dict[str, dict[str, float]]:
    """Measures the parts of loading a sample; returns times in ms by name of the transform."""
    cv2.setNumThreads(0)  # as in a dataloader worker
    steps = dataset.pipeline.transforms
    by_mmpose = [step for transform in steps for step in in_two_steps(transform)]
    numbers = cycle(range(len(dataset)))

    def run(part: Part) -> None:
        number = next(numbers)
        np.random.seed(number)
        with part('sample'):
            with part('annotation'):
                sample = dataset.get_data_info(number) | dict(dataset=dataset)
            for step in steps:
                with part(type(step).__name__):
                    sample = step(sample)
        if by_mmpose != steps:
            np.random.seed(number)
            with part("sample by MMPose's mosaic"):
                sample = dataset.get_data_info(number) | dict(dataset=dataset)
                for step in by_mmpose:
                    sample = step(sample)

    seconds = time_parts(run, samples, torch.device('cpu'))
    return {name: summarise(times) for name, times in seconds.items()}


def in_two_steps(transform: Any) -> list[Any]:
    """Splits MosaicScaleTranslate into the two transforms that it combines.

    Other transforms are returned unchanged.
    """
    if not isinstance(transform, MosaicScaleTranslate):
        return [transform]
    mosaic = TracedMosaic(transform.img_scale, pre_transform=transform.pre_transform.transforms)
    return [mosaic, transform.affine]


def draw_labels(head: KAPAOHead, batch_size: int, people: int, hw: tuple[int, int]) -> list[Tensor]:
    """Draws random labels for a batch.

    Returns:
        Boxes xyxy (B, n, 4) and keypoints (B, n, K, 2) in px of the network input, visibilities
        (B, n, K), categories (B, n).
    """
    torch.manual_seed(0)
    corners = torch.rand(batch_size, people, 2, 2) * torch.tensor(hw[::-1])
    low, high = corners.sort(2).values.unbind(2)  # (B, n, 2)
    places = torch.rand(batch_size, people, head.num_keypoints, 2)
    keypoints = low[:, :, None] + places * (high - low)[:, :, None]
    visible = (torch.rand(keypoints.shape[:3]) < LABELLED).float()
    categories = torch.zeros(batch_size, people, dtype=torch.long)
    return [torch.cat((low, high), 2), keypoints, visible, categories]


def measure_loss(
    head: KAPAOHead, labels: Sequence[Tensor], hw: tuple[int, int], runs: int
) -> dict[str, dict[str, float]]:
    """Measures the loss of a batch of labels from :func:`draw_labels`.

    Returns:
        Times in ms by name of the part.
    """
    device, num_anchors = find_device(), head.anchors.shape[1]
    head.to(device)
    labels = [list(field.to(device)) for field in labels]
    outputs = [  # random outputs of the head's convolutions
        torch.randn(len(labels[0]), conv.out_channels, *(s // stride for s in hw), device=device)
        for conv, stride in zip(head.head_module.convs, head.strides, strict=True)
    ]

    def loss() -> Tensor:
        grids = [o.unflatten(1, (num_anchors, -1)).permute(0, 1, 3, 4, 2) for o in outputs]
        return sum(head.loss_of_grids(grids, *labels).values())

    def run(part: Part) -> None:
        with part('forward'), torch.no_grad():
            loss()
        for output in outputs:
            output.requires_grad_().grad = None
        with part('forward and backward'):
            loss().backward()

    return {name: summarise(times) for name, times in time_parts(run, runs, device).items()}


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Prints the median and the 95th percentile of each part."""
    print(f'\n{title:<44}{"median ms":>10}{"p95 ms":>9}')
    for name, row in rows.items():
        print(f'{name:<44}{row["median_ms"]:>10.2f}{row["p95_ms"]:>9.2f}')


def main() -> None:
    """Measures data loading and the loss, and prints a table of each."""
    args = parse_args()
    if args.out:
        check_writable(args.out, ['.json'])
    register_all_modules()
    sizes = dict(input_size=args.input_size) if args.input_size else {}
    cfg = load_config(args.config, args.cfg_options | sizes)
    report = dict(
        config=args.config,
        input_size=cfg.input_size,
        images='of the config' if args.real else 'drawn',
        machine=describe_machine('opencv-python'),
    )
    print(f'\n{args.config}\n{report["machine"]}')
    with tempfile.TemporaryDirectory() as folder:
        dataset = build_dataset(cfg, None if args.real else Path(folder))
        report['loading'] = measure_loading(dataset, args.samples)
    print_table(f'a sample of {cfg.input_size} px', report['loading'])

    head = MODELS.build(cfg.model.head)
    labels = draw_labels(head, args.batch_size, args.people, args.loss_size)
    objects = args.batch_size * args.people + int(labels[2].sum())
    height, width = args.loss_size
    report['loss'] = dict(
        batch_size=args.batch_size,
        input_hw=args.loss_size,
        objects=objects,
        ms=measure_loss(head, labels, args.loss_size, args.runs),
    )
    title = f'loss of {objects} objects, {args.batch_size} images of {height} x {width}'
    print_table(title, report['loss']['ms'])
    if args.out:
        write_report(report, args.out)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
