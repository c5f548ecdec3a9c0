# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares the poses that two predictors find in the test data of a config."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

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

from kapao_mm.deploy.runtime import KAPAORuntime
from kapao_mm.engine import load_weights
from kapao_mm.errors import InputError
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.structures import InferenceSettings
from kapao_mm.structures.data_sample import to_data_sample
from kapao_mm.utils.config import fit_loaders, load_config
from kapao_mm.utils.image_files import read_image

from .report import live_table
from .timing import describe_machine, find_device

SAME_POSE = 0.8  # IoU of boxes above which two poses count as the same
NEAR = 0.5  # px of the original image
Predict = Callable[[dict], list[PoseDataSample]]  # predicts a batch of the test data


def compare_models(
    config: str,
    checkpoint: str,
    precisions: Sequence[str],
    model_files: Sequence[str],
    cfg_options: dict[str, Any],
) -> dict[str, Any]:
    """Compares each precision and exported file with PyTorch in float32, and prints a table.

    Arguments are those of ``compare_predictions.py``. Returns the figures.
    """
    cfg = load_config(config, cfg_options)
    fit_loaders(cfg)
    MMLogger.get_instance('compare_predictions', log_level='WARNING')
    score_thr = InferenceSettings.from_test_cfg(cfg.model.test_cfg, 'evaluation').fusion_score_thr
    with redirect_stdout(None):
        loader = Runner.build_dataloader(cfg.test_dataloader)
    expected, ap = predict_all(torch_model(cfg, checkpoint), loader, cfg.test_evaluator)
    machine = describe_machine()
    print(f'{machine}\n{len(expected)} images of {config}; PyTorch, float32: AP {ap:.4f}\n')
    rows = dict(reference=dict(AP=ap))
    others = {f'PyTorch, {name}': (torch_model, cfg, checkpoint, name) for name in precisions}
    others |= {path: (exported_model, path) for path in model_files}
    with live_table('model', 'AP', 'poses', 'changed', 'fused', 'regressed', 'largest, px') as add:
        for name, (make, *arguments) in others.items():
            samples, ap = predict_all(make(*arguments), loader, cfg.test_evaluator)
            pairs = zip(expected, samples, strict=True)
            rows[name] = dict(AP=ap, **summarize_poses(pairs, score_thr))
            add(name, *cells(rows[name]))
    print(
        f'poses: those that fusion uses, found again (IoU > {SAME_POSE}); changed: keypoints '
        f'fused in only one of the two, of all fused\nfused, regressed: keypoints within {NEAR} px '
        'of the original image'
    )
    return dict(config=config, machine=machine, rows=rows)


def cells(row: dict[str, Any]) -> list[str]:
    """Formats a row of the table."""
    near = (row['fused_near'], row['regressed_near'])
    return [
        f'{row["AP"]:.4f}',
        f'{row["found"]} of {row["poses"]}',
        f'{row["changed"]} of {row["fused"]}',
        *('-' if share is None else f'{share:.2%}' for share in near),
        f'{row["largest_gap"]:.4g}',
    ]


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
        raise InputError(
            f'{path} was exported for {runtime.metadata.use}; export it with --use evaluation'
        )

    def predict(batch: dict) -> list[PoseDataSample]:
        samples = batch['data_samples']
        found = runtime([read_image(Path(sample.img_path)) for sample in samples])
        for sample, prediction in zip(samples, found, strict=True):
            to_data_sample(prediction, sample)
        return samples

    return predict


def predict_all(
    predict: Predict, loader: DataLoader, metrics: Any
) -> tuple[list[PoseDataSample], float]:
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


def compare_poses(
    expected: PoseDataSample, found: PoseDataSample, score_thr: float
) -> dict[str, Any]:
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


def summarize_poses(
    pairs: Iterable[tuple[PoseDataSample, PoseDataSample]], score_thr: float
) -> dict[str, Any]:
    """Aggregates the results of :func:`compare_poses` over all images.

    Returns:
        Sums of the numbers; ``fused_near`` and ``regressed_near``, the shares of distances up to
        :data:`NEAR`, and ``median_gap``: None if there are no distances; ``largest_gap``.
    """
    parts = [compare_poses(expected, found, score_thr) for expected, found in pairs]
    sums = {key: sum(part[key] for part in parts) for key in ('poses', 'found', 'fused', 'changed')}
    gaps, regressed = (
        np.concatenate([part[key] for part in parts]) for key in ('gaps', 'regressed')
    )

    def near(distances: np.ndarray) -> float | None:
        return float((distances <= NEAR).mean()) if len(distances) else None

    return sums | dict(
        fused_near=near(gaps),
        regressed_near=near(regressed),
        median_gap=float(np.median(gaps)) if len(gaps) else None,
        largest_gap=float(max(gaps.max(initial=0), regressed.max(initial=0))),
    )
