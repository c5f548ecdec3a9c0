# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time of NMS and fusion by the number of people in an image.

"NMS" is the step from candidates to kept objects on the host. "fusion" is the step from there to
poses in the original image. "fuse" is Algorithm 1 of the paper alone; "reference" is a plain loop
over keypoint objects with the same result, and "ratio" is reference / fuse. The crowds are
synthetic, in inputs of 1280 x 1280 px.
"""

import argparse
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import exit_on_input_error, positive

PEOPLE = (1, 2, 5, 10, 20, 40, 60, 80, 100)


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a model with one category')
    parser.add_argument(
        '--people', type=positive, nargs='+', default=PEOPLE, help='in an image [1 to 100]'
    )
    parser.add_argument(
        '--golden',
        type=Path,
        help='measure the crowds of this file (.npz) as well, arrays NAME_pred of decoded rows: '
        'centre, size, objectness, classes, keypoints',
    )
    parser.add_argument(
        '--use',
        choices=['evaluation', 'pictures'],
        default='evaluation',
        help='whose thresholds apply [%(default)s]',
    )
    parser.add_argument('--runs', type=positive, default=50, help='measured runs [%(default)s]')
    parser.add_argument('--out', type=Path, help='write figures here (.json), and a plot (.png)')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
import torch
from matplotlib.figure import Figure
from mmpose.registry import MODELS
from torchvision.ops import box_convert

from kapao_mm import register_all_modules
from kapao_mm.analysis.synthetic_crowd import confident, make_crowds
from kapao_mm.analysis.timing import (
    Part,
    describe_machine,
    find_device,
    summarise,
    time_parts,
    write_report,
)
from kapao_mm.functional.fusion import fuse
from kapao_mm.functional.prediction import predict_in_image
from kapao_mm.models.heads import KAPAOHead
from kapao_mm.models.kapao import inference_settings
from kapao_mm.models.task_modules.candidates import Candidates
from kapao_mm.utils.config import load_config

WARM_UP = 20  # runs that are not measured
SCALE = np.array([0.5, 0.5])  # px of the original image for each px of the network input
IMAGE_SIZE = (640, 640)


def fuse_by_object(
    poses: np.ndarray,
    pose_scores: np.ndarray,
    points: np.ndarray,
    point_scores: np.ndarray,
    point_types: np.ndarray,
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuses one keypoint object after the other (Algorithm 1 of the paper); see ``fuse``."""
    keypoints, confidences = poses.astype(float), np.zeros(poses.shape[:2])
    targets = np.flatnonzero(pose_scores > score_thr)
    if not len(targets):
        return keypoints, confidences
    for q in np.argsort(-point_scores, kind='stable'):
        kind = point_types[q]
        gaps = np.linalg.norm(keypoints[targets, kind] - points[q], axis=1)
        nearest = gaps.argmin()
        pose = targets[nearest]
        if gaps[nearest] < distance and point_scores[q] > confidences[pose, kind]:
            keypoints[pose, kind], confidences[pose, kind] = points[q], point_scores[q]
    return keypoints, confidences


def read_crowds(path: Path, num_keypoints: int) -> dict[str, Candidates]:
    """Reads crowds from a file of decoded rows, by name.

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
    return {name.removesuffix('_pred'): _decoded(rows) for name, rows in arrays.items()}


def _decoded(rows: np.ndarray) -> Candidates:
    columns = torch.from_numpy(rows)
    num_keypoints = columns.shape[1] // 3 - 2
    scores, labels = (columns[:, 5 : 6 + num_keypoints] * columns[:, 4:5]).max(1)
    return Candidates(
        image=torch.zeros_like(labels),
        scores=scores,
        labels=labels,
        boxes=box_convert(columns[:, :4], 'cxcywh', 'xyxy'),
        keypoints=columns[:, 6 + num_keypoints :].unflatten(1, (num_keypoints, 2)),
    )


def measure(
    head: KAPAOHead, candidates: Candidates, settings: dict[str, float], runs: int
) -> dict[str, Any]:
    """Measures the parts of post-processing for a crowd, and counts candidates and objects."""
    device = find_device()
    candidates = confident(candidates, settings, device)
    counts = {}

    def run(part: Part) -> None:
        with part('NMS'):
            (objects,) = head.detect(candidates, 1, settings)
        with part('fusion'):
            found = predict_in_image(
                objects, SCALE, np.zeros(2), IMAGE_SIZE, head.keypoint_counts, settings
            )
        centres = (objects.point_boxes.reshape(-1, 2, 2) * SCALE).mean(1)
        arguments = (
            found.pose_keypoints,
            objects.scores,
            centres,
            objects.point_scores,
            objects.point_types,
            settings['fusion_score_thr'],
            settings['fusion_distance'],
        )
        with part('fuse'):
            fuse(*arguments)
        with part('reference'):
            fuse_by_object(*arguments)
        counts.update(
            poses=len(objects.boxes),
            keypoint_objects=len(objects.point_boxes),
            fused=int((found.keypoint_scores > 0).sum()),
        )

    seconds = time_parts(run, runs, device, WARM_UP)
    times = {name: summarise(values) for name, values in seconds.items()}
    return dict(candidates=len(candidates.scores), **counts, **times)


HEADER = (
    f'{"people":>8}{"candidates":>12}{"poses":>7}{"keypoint objects":>18}{"fused":>7}'
    f'{"NMS":>9}{"p95":>7}{"fusion":>9}{"p95":>7}{"fuse":>8}{"reference":>11}{"ratio":>7}'
)


def format_row(name: str, row: dict[str, Any]) -> str:
    """Formats a row of the table."""
    line = f'{name:>8}{row["candidates"]:>12}{row["poses"]:>7}{row["keypoint_objects"]:>18}'
    line += f'{row["fused"]:>7}'
    for part in ('NMS', 'fusion'):
        line += f'{row[part]["median_ms"]:>9.2f}{row[part]["p95_ms"]:>7.2f}'
    fuse, reference = (row[part]['median_ms'] for part in ('fuse', 'reference'))
    return f'{line}{fuse:>8.2f}{reference:>11.2f}{reference / fuse:>7.1f}'


def draw(rows: dict[int, dict], title: str) -> Figure:
    """Plots the time by number of people: medians, and bands up to the 95th percentile."""
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.subplots()
    for part in ('NMS', 'fusion', 'fuse', 'reference'):
        medians, highs = (
            [row[part][key] for row in rows.values()] for key in ('median_ms', 'p95_ms')
        )
        (line,) = axes.plot(list(rows), medians, 'o-', label=part)
        axes.fill_between(list(rows), medians, highs, alpha=0.2, color=line.get_color())
    axes.set(title=title, xlabel='people in the image', ylabel='ms, median and p95', ylim=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    """Measures all crowds, and prints a table."""
    args = parse_args()
    if args.out:
        check_writable(args.out, ['.json'])
    register_all_modules()
    cfg = load_config(args.config)
    head = MODELS.build(cfg.model.head)
    if head.num_categories > 1:
        raise InputError(
            f'{args.config} has {head.num_categories} categories; give a config with one'
        )
    settings = inference_settings(cfg.model.test_cfg, args.use)
    crowds = {people: make_crowds(people, 1, head.keypoint_counts) for people in args.people}
    golden = read_crowds(args.golden, head.num_keypoints) if args.golden else {}

    machine = describe_machine('numpy', 'torchvision')
    print(
        f'{machine}\nms, median and p95 of {args.runs} runs; thresholds for {args.use}\n\n{HEADER}'
    )
    rows = {}
    for name, candidates in {**crowds, **golden}.items():
        rows[name] = measure(head, candidates, settings, args.runs)
        print(format_row(name, rows[name]), flush=True)
    if args.out:
        write_report(dict(machine=machine, use=args.use, runs=args.runs, crowds=rows), args.out)
        picture = args.out.with_suffix('.png')
        figure = draw({people: rows[people] for people in crowds}, machine.partition(';')[0])
        with atomic_path(picture) as temporary:
            figure.savefig(temporary)
        print(f'plot: {picture}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
