# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how half precision or export changes a model's predictions on its test data."""

import argparse
import copy
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import PRECISIONS, add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--precisions', nargs='+', choices=PRECISIONS, default=[], help='of the network in PyTorch'
    )
    parser.add_argument(
        '--model-files',
        nargs='+',
        default=[],
        metavar='FILE',
        help='of kapao export --use evaluation',
    )
    parser.add_argument('--out', type=Path, help='write the figures to this file (.json)')
    add_config_options(parser, 'data_root=DIR input_size=1280')
    args = parser.parse_args()
    if not args.precisions + args.model_files:
        parser.error('give --precisions or --model-files, to compare with PyTorch in float32')
    return args


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch.utils.data import DataLoader
from torchvision.ops import box_iou

from kapao_mm import register_all_modules
from kapao_mm.analysis.timing import describe_machine, find_device, write_report
from kapao_mm.deploy.runtime import KAPAORuntime
from kapao_mm.engine import load_weights
from kapao_mm.models.kapao import add_prediction_to_datasample, inference_settings
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.utils.config import fit_loaders, load_config
from kapao_mm.utils.image_files import read_image

SAME_POSE = 0.8  # IoU of boxes above which two poses count as the same
NEAR = 0.5  # px of the original image
Predict = Callable[[dict], list[PoseDataSample]]  # predicts a batch of the test data


def torch_model(cfg: Config, checkpoint: str, precision: str | None = None) -> Predict:
    """Returns the predictor of a PyTorch model, optimized for inference if precision is given."""
    model = MODELS.build(cfg.model).eval()
    load_weights(model, checkpoint)
    if precision:
        prepare_for_inference(model, precision)
    return model.to(find_device()).test_step


def exported_model(path: str) -> Predict:
    """Returns the predictor of an exported file, which reads and resizes the images itself.

    Raises:
        InputError: If the file was exported with the thresholds for another use.
    """
    runtime = KAPAORuntime(path)
    if runtime.metadata.use != 'evaluation':
        raise InputError(f'{path} was exported for {runtime.metadata.use}; use --use evaluation')

    def predict(batch: dict) -> list[PoseDataSample]:
        samples = batch['data_samples']
        found = runtime([read_image(Path(sample.img_path)) for sample in samples])
        for sample, prediction in zip(samples, found, strict=True):
            add_prediction_to_datasample(prediction, sample)
        return samples

    return predict


def compare(expected: PoseDataSample, found: PoseDataSample, score_thr: float) -> dict[str, Any]:
    """Compares two predictions of an image.

    Each expected pose is compared with the found pose whose box overlaps most.

    Args:
        expected: Sample with the expected poses.
        found: Sample with the found poses.
        score_thr: Minimum score of the expected poses, that of fusion.

    Returns:
        ``poses`` and ``found``: numbers of expected poses and of those found again. ``gaps`` and
        ``regressed``: distances (px of the original image) between keypoints that are fused in both
        predictions, and in neither. ``fused`` and ``changed``: numbers of keypoints that are fused
        in the expected poses, and in only one of the two.
    """
    ours, theirs = expected.pred_instances, found.pred_instances
    ours = ours[ours.bbox_scores > score_thr]
    overlap = box_iou(torch.as_tensor(ours.bboxes), torch.as_tensor(theirs.bboxes)).numpy()
    pairs = overlap.argmax(1) if len(theirs) else np.zeros(len(ours), int)
    same = overlap.max(1, initial=0) > SAME_POSE
    ours, theirs = ours[same], theirs[pairs[same]]
    gaps = np.linalg.norm(ours.keypoints - theirs.keypoints, axis=-1)  # (P, K)
    own, was, now = ours.keypoints_visible > 0, ours.keypoints_fused, theirs.keypoints_fused
    return dict(
        poses=len(same),
        found=int(same.sum()),
        fused=int(was.sum()),
        changed=int((was != now).sum()),
        gaps=gaps[was & now],
        regressed=gaps[own & ~was & ~now],
    )


def summarise(pairs: Iterable[tuple[PoseDataSample, PoseDataSample]], score_thr: float) -> dict:
    """Aggregates the results of :func:`compare` over all images."""
    parts = [compare(expected, found, score_thr) for expected, found in pairs]
    sums = {key: sum(part[key] for part in parts) for key in ('poses', 'found', 'fused', 'changed')}
    gaps, regressed = (
        np.concatenate([part[key] for part in parts]) for key in ('gaps', 'regressed')
    )
    return sums | dict(
        fused_near=near(gaps),
        regressed_near=near(regressed),
        median_gap=float(np.median(gaps)) if len(gaps) else None,
        largest_gap=float(max(gaps.max(initial=0), regressed.max(initial=0))),
    )


def near(gaps: np.ndarray) -> float | None:
    """Returns the share of distances up to :data:`NEAR`, or None if there are none."""
    return float((gaps <= NEAR).mean()) if len(gaps) else None


def run(predict: Predict, loader: DataLoader, metrics: Any) -> tuple[list[PoseDataSample], float]:
    """Predicts the test data, and returns the samples and the first metric, AP."""
    with redirect_stdout(None):  # pycocotools prints
        evaluator = Evaluator(copy.deepcopy(metrics))
        evaluator.dataset_meta = loader.dataset.metainfo
    samples = []
    with torch.inference_mode():
        for batch in loader:
            found = predict(batch)
            evaluator.process(found, batch)
            samples += found
    return samples, next(iter(evaluator.evaluate(len(loader.dataset)).values()))


def format_row(name: str, row: dict[str, Any]) -> str:
    """Formats a row of the table."""

    def share(value: float | None) -> str:
        return f'{"-":>10}' if value is None else f'{value:>10.2%}'

    return (
        f'{name:<28}{row["AP"]:>8.4f}{row["found"]:>6}/{row["poses"]:<5}'
        f'{row["changed"]:>6}/{row["fused"]:<6}{share(row["fused_near"])}'
        f'{share(row["regressed_near"])}{row["largest_gap"]:>12.4g}'
    )


def main() -> None:
    """Compares each precision and exported file with PyTorch in float32, and prints a table."""
    args = parse_args()
    if args.out:
        check_writable(args.out, ['.json'])
    cfg = load_config(args.config, args.cfg_options)
    fit_loaders(cfg)
    register_all_modules()
    MMLogger.get_instance('compare_predictions', log_level='WARNING')
    score_thr = inference_settings(cfg.model.test_cfg)['fusion_score_thr']
    with redirect_stdout(None):
        loader = Runner.build_dataloader(cfg.test_dataloader)
    expected, ap = run(torch_model(cfg, args.checkpoint), loader, cfg.test_evaluator)
    print(
        f'{describe_machine()}\n{len(expected)} images of {args.config}; PyTorch, float32: '
        f'AP {ap:.4f}\n\n{"":28}{"AP":>8}{"poses":>12}{"changed":>13}{"fused":>10}'
        f'{"regressed":>10}{"largest, px":>12}'
    )
    rows = dict(reference=dict(AP=ap))
    others = {
        f'PyTorch, {name}': (torch_model, cfg, args.checkpoint, name) for name in args.precisions
    }
    others |= {path: (exported_model, path) for path in args.model_files}
    for name, (make, *arguments) in others.items():
        samples, ap = run(make(*arguments), loader, cfg.test_evaluator)
        pairs = zip(expected, samples, strict=True)
        rows[name] = dict(AP=ap, **summarise(pairs, score_thr))
        print(format_row(name, rows[name]), flush=True)
    print(
        f'\nposes: that fusion looks at, found again (IoU > {SAME_POSE}); changed: keypoints fused '
        f'in one of the two only,\nof all fused; fused, regressed: those within {NEAR} px of the '
        f'original image'
    )
    if args.out:
        write_report(dict(config=args.config, machine=describe_machine(), rows=rows), args.out)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
