# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time of NMS and fusion by the number of people in an image.

"NMS" is the step from candidates to kept objects on the host. "fusion" is the step from there to
poses in the original image. "fuse" is Algorithm 1 of the paper alone. The crowds are synthetic, in
inputs of 1280 x 1280 px. Those of a file are decoded rows, and "NMS" includes finding the
candidates among them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmpose.registry import MODELS
from torch import Tensor
from torchvision.ops import box_convert

from kapao_mm.errors import InputError
from kapao_mm.functional.fusion import fuse
from kapao_mm.functional.postprocess import predict_in_image
from kapao_mm.models.heads import KAPAOHead
from kapao_mm.models.task_modules.postprocess import Candidates
from kapao_mm.structures import InferenceSettings
from kapao_mm.utils.config import load_config

from .report import live_table
from .synthetic_crowd import filter_by_score, make_crowds
from .timing import Part, describe_machine, find_device, summarize, time_parts

PARTS = ('NMS', 'fusion', 'fuse')
COUNTS = ('candidates', 'poses', 'keypoint_objects', 'fused')
WARM_UP = 20  # runs that are not measured
SCALE = np.array([0.5, 0.5])  # px of the original image for each px of the network input
IMAGE_SIZE = (640, 640)


def benchmark(
    config: str, people: Sequence[int], golden: Path | None, use: str, runs: int
) -> tuple[dict[str, Any], Figure]:
    """Measures crowds of several sizes, and prints a table.

    Arguments are those of ``benchmark.py postprocess``.

    Returns:
        The figures, and a plot of the synthetic crowds.

    Raises:
        InputError: If the model has several categories, or ``golden`` has no crowds for it.
    """
    cfg = load_config(config)
    head = MODELS.build(cfg.model.head)
    if head.num_categories > 1:
        raise InputError(f'{config} has {head.num_categories} categories; give a config with one')
    settings, device = InferenceSettings.from_test_cfg(cfg.model.test_cfg, use), find_device()
    crowds = {}
    for number in people:
        candidates = make_crowds(number, 1, head.keypoint_counts)
        crowds[number] = repeat(filter_by_score(candidates, settings, device)).__next__
    others = {
        name: partial(find_candidates, rows.to(device), head.num_keypoints, settings)
        for name, rows in (read_crowds(golden, head.num_keypoints) if golden else {}).items()
    }

    machine = describe_machine('numpy', 'torchvision')
    print(f'{machine}\nms, median and p95 of {runs} runs; thresholds for {use}\n')
    counts = (name.replace('_', ' ') for name in COUNTS)
    columns = ('people', *counts, *(text for part in PARTS for text in (part, 'p95')))
    rows = {}
    with live_table(*columns) as add:
        for name, find in {**crowds, **others}.items():
            row = rows[name] = measure(head, find, settings, runs)
            times = (row[part][key] for part in PARTS for key in ('median_ms', 'p95_ms'))
            add(str(name), *(str(row[key]) for key in COUNTS), *(f'{time:.2f}' for time in times))
    plot = draw({number: rows[number] for number in crowds}, machine.partition(';')[0])
    return dict(machine=machine, use=use, runs=runs, crowds=rows), plot


def measure(
    head: KAPAOHead, find: Callable[[], Candidates], settings: InferenceSettings, runs: int
) -> dict[str, Any]:
    """Measures the parts of post-processing for a crowd, and counts candidates and objects.

    Args:
        head: Head that suppresses candidates.
        find: Function that returns the candidates of the crowd; its time is part of NMS.
        settings: Inference settings.
        runs: Number of measured runs.
    """
    counts = {}

    def run(part: Part) -> None:
        with part('NMS'):
            candidates = find()
            (detections,) = head.detect(candidates, settings)
        with part('fusion'):
            found = predict_in_image(
                detections, SCALE, np.zeros(2), IMAGE_SIZE, head.keypoint_counts, settings
            )
        poses, objects = detections
        centers = (objects.bboxes.reshape(-1, 2, 2) * SCALE).mean(1)
        with part('fuse'):
            fuse(
                found.pose_keypoints,
                poses.scores,
                centers,
                objects.scores,
                objects.labels,
                settings.fusion_score_thr,
                settings.fusion_distance,
            )
        counts.update(
            candidates=candidates.scores.numel(),
            poses=len(poses.bboxes),
            keypoint_objects=len(objects.bboxes),
            fused=int(found.keypoints_fused.sum()),
        )

    with torch.inference_mode():
        seconds = time_parts(run, runs, find_device(), WARM_UP)
    return counts | {name: summarize(values) for name, values in seconds.items()}


def read_crowds(path: Path, num_keypoints: int) -> dict[str, Tensor]:
    """Reads crowds from a file of decoded rows, by name.

    Args:
        path: File (.npz) with arrays ``NAME_pred`` (n, 6 + 3K): center, size, objectness, classes,
            keypoints.
        num_keypoints: K.

    Raises:
        InputError: If the file has no crowds, or they have another number of keypoints.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file if name.endswith('_pred')}
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from error
    width = 6 + 3 * num_keypoints
    if not arrays or any(rows.shape[1:] != (width,) for rows in arrays.values()):
        raise InputError(f'{path} has no arrays NAME_pred of rows of {width} numbers')
    return {name.removesuffix('_pred'): torch.from_numpy(rows) for name, rows in arrays.items()}


def find_candidates(rows: Tensor, num_keypoints: int, settings: InferenceSettings) -> Candidates:
    """Finds the candidates of an image among decoded rows (n, 6 + 3K), as :func:`decode` does."""
    best, labels = rows[:, 5 : 6 + num_keypoints].max(1)
    scores = rows[:, 4] * best
    index = (scores > torch.where(labels < 1, *settings.candidate_thrs)).nonzero().squeeze(1)
    found = rows[index][None]  # (1, k, 6 + 3K)
    return Candidates(
        scores=scores[index][None],
        labels=labels[index][None],
        bboxes=box_convert(found[..., :4], 'cxcywh', 'xyxy'),
        keypoints=found[..., 6 + num_keypoints :].unflatten(2, (num_keypoints, 2)),
    )


def draw(rows: dict[int, dict], title: str) -> Figure:
    """Plots the time by number of people: medians, and bands up to the 95th percentile."""
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    for part in PARTS:
        medians, highs = (
            [row[part][key] for row in rows.values()] for key in ('median_ms', 'p95_ms')
        )
        (line,) = axes.plot(list(rows), medians, 'o-', label=part)
        axes.fill_between(list(rows), medians, highs, alpha=0.2, color=line.get_color())
    axes.set(title=title, xlabel='people in the image', ylabel='ms, median and p95', ylim=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
