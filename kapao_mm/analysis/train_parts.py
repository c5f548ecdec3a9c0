# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time of each part of loading a training sample, and the time of the loss.

Samples are loaded in one process. If the config uses MosaicScaleTranslate, which draws only the
visible part of a mosaic, samples are also created with MMPose's mosaic for comparison. The loss,
including objects and matches, is computed for random network outputs and random people.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData
from mmpose.registry import DATASETS, MODELS
from torch import Tensor

from kapao_mm.datasets.transforms import MosaicScaleTranslate, TracedMosaic
from kapao_mm.models.heads import KAPAOHead

from .report import print_table
from .timing import Part, describe_machine, find_device, summarize, time_parts
from .training_data import load_training_config, use_drawn_images

LABELED = 0.85  # share of labeled keypoints for the loss


def benchmark(
    config: str,
    samples: int,
    input_size: int | None,
    real: bool,
    batch_size: int,
    loss_size: tuple[int, int],
    people: int,
    runs: int,
    cfg_options: dict[str, Any],
) -> tuple[dict[str, Any], None]:
    """Measures data loading and the loss, and prints a table of each.

    Arguments are those of ``benchmark.py train-parts``.

    Returns:
        The figures, and no plot.

    Raises:
        InputError: If the config combines datasets.
    """
    cfg = load_training_config(config, cfg_options, input_size)
    report = dict(
        config=config,
        input_size=cfg.input_size,
        images='of the config' if real else 'drawn',
        machine=describe_machine('opencv-python'),
    )
    print(f'\n{config}\n{report["machine"]}')
    with TemporaryDirectory() as folder:
        data = cfg.train_dataloader.dataset
        if not real:
            use_drawn_images(data, Path(folder))
        report['loading'] = measure_loading(DATASETS.build(data), samples)
    print_times(f'a sample of {cfg.input_size} px', report['loading'])

    head = MODELS.build(cfg.model.head)
    labels = draw_labels(head, batch_size, people, loss_size)
    objects = batch_size * people + int(sum(image.keypoints_visible.sum() for image in labels))
    times = measure_loss(head, labels, loss_size, runs)
    report['loss'] = dict(batch_size=batch_size, input_hw=loss_size, objects=objects, ms=times)
    height, width = loss_size
    print_times(f'loss of {objects} objects, {batch_size} images of {height} x {width}', times)
    return report, None


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
    return {name: summarize(times) for name, times in seconds.items()}


def in_two_steps(transform: Any) -> list[Any]:
    """Splits MosaicScaleTranslate into the two transforms that it combines.

    Other transforms are returned unchanged.
    """
    if not isinstance(transform, MosaicScaleTranslate):
        return [transform]
    mosaic = TracedMosaic(transform.img_scale, pre_transform=transform.pre_transform.transforms)
    return [mosaic, transform.affine]


def draw_labels(
    head: KAPAOHead, batch_size: int, people: int, hw: tuple[int, int]
) -> list[InstanceData]:
    """Draws random labels for each image of a batch, see :meth:`KAPAOHead.loss`."""
    torch.manual_seed(0)
    corners = torch.rand(batch_size, people, 2, 2) * torch.tensor(hw[::-1])
    low, high = corners.sort(2).values.unbind(2)  # (B, n, 2)
    positions = torch.rand(batch_size, people, head.num_keypoints, 2)
    keypoints = low[:, :, None] + positions * (high - low)[:, :, None]
    visible = (torch.rand(keypoints.shape[:3]) < LABELED).float()
    bboxes = torch.cat((low, high), 2)
    return [
        InstanceData(
            bboxes=bboxes[i],
            keypoints=keypoints[i],
            keypoints_visible=visible[i],
            labels=torch.zeros(people, dtype=torch.long),
        )
        for i in range(batch_size)
    ]


def measure_loss(
    head: KAPAOHead, labels: Sequence[InstanceData], hw: tuple[int, int], runs: int
) -> dict[str, dict[str, float]]:
    """Measures the loss of a batch of labels from :func:`draw_labels`.

    Returns:
        Times in ms by name of the part.
    """
    device, num_anchors = find_device(), head.anchors.shape[1]
    head.to(device)
    labels = [image.to(device) for image in labels]
    outputs = [  # random outputs of the head's convolutions
        torch.randn(len(labels), conv.out_channels, *(s // stride for s in hw), device=device)
        for conv, stride in zip(head.head_module.convs, head.strides, strict=True)
    ]

    def loss() -> Tensor:
        grids = [o.unflatten(1, (num_anchors, -1)) for o in outputs]
        return sum(head.loss_by_feat(grids, labels).values())

    def run(part: Part) -> None:
        with part('forward'), torch.no_grad():
            loss()
        for output in outputs:
            output.requires_grad_().grad = None
        with part('forward and backward'):
            loss().backward()

    return {name: summarize(times) for name, times in time_parts(run, runs, device).items()}


def print_times(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Prints the median and the 95th percentile of each part."""
    print_table(
        (title, 'median ms', 'p95 ms'),
        ((name, f'{row["median_ms"]:.2f}', f'{row["p95_ms"]:.2f}') for name, row in rows.items()),
    )
