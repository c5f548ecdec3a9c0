# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares a model's poses in float32 with those of its other precisions and exported files."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
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

from .report import live_table
from .timing import describe_machine, find_device

SAME_POSE = 0.8  # IoU of boxes above which two poses count as the same
NEAR = 0.5  # px of the original image that a keypoint may move and still count as near
Predict = Callable[[dict], list[PoseDataSample]]  # takes a batch of the test data loader


def compare_models(
    config: str,
    checkpoint: str,
    precisions: Sequence[str],
    model_files: Sequence[str],
    cfg_options: dict[str, Any],
) -> dict[str, Any]:
    """Compares each precision and exported file with PyTorch in float32, and prints a table.

    Args:
        config: Config file, whose test data is predicted.
        checkpoint: Checkpoint file.
        precisions: Precisions of the network in PyTorch, such as 'bfloat16'.
        model_files: Files that were exported from the checkpoint for evaluation.
        cfg_options: Options that change the config.

    Returns:
        The config, a description of the machine, and the rows of the table by the name of the model
        (AP and, except for the reference, the result of :func:`summarize_poses`).
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
            images = zip(expected, samples, strict=True)
            rows[name] = dict(AP=ap, **summarize_poses(images, score_thr))
            add(name, *cells(rows[name]))
    print(
        f'poses: of the poses that take part in fusion, those found again (IoU > {SAME_POSE})\n'
        'changed: of the keypoints that are fused in float32, those fused in only one of the two\n'
        'fused, regressed: of the keypoints fused in both models, and in neither, those that moved '
        f'by at most {NEAR} px of the original image\n'
        'largest: largest distance that one of these moved'
    )
    return dict(config=config, machine=machine, rows=rows)


def cells(row: dict[str, Any]) -> list[str]:
    """Formats a result of :func:`summarize_poses` with its AP as a row of the table."""
    near = (row['fused_near'], row['regressed_near'])
    return [
        f'{row["AP"]:.4f}',
        f'{row["found"]} of {row["poses"]}',
        f'{row["changed"]} of {row["fused"]}',
        *('-' if share is None else f'{share:.2%}' for share in near),
        f'{row["largest_gap"]:.4g}',
    ]


def torch_model(cfg: Config, checkpoint: str, precision: str | None = None) -> Predict:
    """Returns the function that predicts with a model in PyTorch.

    Args:
        cfg: Config.
        checkpoint: Checkpoint file.
        precision: Precision, as for :func:`prepare_for_inference`, which then also speeds up the
            model; None to use the model as trained, in float32.
    """
    model = MODELS.build(cfg.model).eval()
    load_weights(model, checkpoint)
    if precision:
        prepare_for_inference(model, precision)
    return model.to(find_device()).test_step


def exported_model(path: str) -> Predict:
    """Returns the function that predicts with an exported file.

    It reads and resizes the image files of a batch itself, and ignores the batch's inputs.

    Raises:
        InputError: If the file was exported with the thresholds for another use than evaluation.
    """
    runtime = KAPAORuntime(path)
    if runtime.metadata.use != 'evaluation':
        raise InputError(
            f'{path} was exported for {runtime.metadata.use}; export it with --use evaluation'
        )

    def predict(batch: dict) -> list[PoseDataSample]:
        samples = batch['data_samples']
        found = runtime([sample.img_path for sample in samples], batch_size=len(samples))
        for sample, result in zip(samples, found, strict=True):
            to_data_sample(result.prediction, sample)
        return samples

    return predict


def predict_all(
    predict: Predict, loader: DataLoader, metrics: Any
) -> tuple[list[PoseDataSample], float]:
    """Predicts the test data, and evaluates the predictions.

    Args:
        predict: Function that predicts a batch.
        loader: Loader of the test data.
        metrics: Config of the metrics; the first value of the first metric must be the AP.

    Returns:
        The samples with their predictions, in the order of the data, and the AP.
    """
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

    Each expected pose is compared with the found pose whose box overlaps most with its own. It
    counts as found again if the IoU of the boxes is above :data:`SAME_POSE`. The keypoints of other
    poses are left out.

    Args:
        expected: Sample with the expected poses.
        found: Sample with the poses to compare with them.
        score_thr: Score above which an expected pose is compared, the ``fusion_score_thr`` of the
            inference settings.

    Returns:
        A dict with the keys

        - ``poses``, ``found``: number of expected poses, and of those found again;
        - ``fused``, ``changed``: number of keypoints that are fused in the expected prediction, and
          of those that are fused in only one of the two predictions;
        - ``gaps``: distances, (n,) px of the original image, between the two positions of each
          keypoint that is fused in both predictions;
        - ``regressed``: the same for each keypoint that is fused in neither.
    """
    poses, others = expected.pred_instances, found.pred_instances
    poses = poses[poses.bbox_scores > score_thr]
    overlap = box_iou(torch.as_tensor(poses.bboxes), torch.as_tensor(others.bboxes)).numpy()
    partners = overlap.argmax(1) if len(others) else np.zeros(len(poses), int)
    same = overlap.max(1, initial=0) > SAME_POSE
    poses, others = poses[same], others[partners[same]]
    gaps = np.linalg.norm(poses.keypoints - others.keypoints, axis=-1)  # (P, K)
    before, after = poses.keypoints_fused, others.keypoints_fused
    exists = poses.keypoints_visible > 0  # False for keypoint types of other categories
    return dict(
        poses=len(same),
        found=int(same.sum()),
        fused=int(before.sum()),
        changed=int((before != after).sum()),
        gaps=gaps[before & after],
        regressed=gaps[exists & ~before & ~after],
    )


def summarize_poses(
    images: Iterable[tuple[PoseDataSample, PoseDataSample]], score_thr: float
) -> dict[str, Any]:
    """Aggregates the results of :func:`compare_poses` over all images.

    Args:
        images: For each image, the samples with the expected and with the found poses.
        score_thr: As in :func:`compare_poses`.

    Returns:
        A dict with the keys

        - ``poses``, ``found``, ``fused``, ``changed``: sums of the numbers of the images;
        - ``fused_near``, ``regressed_near``: shares of fused and of regressed keypoints that moved
          by at most :data:`NEAR`, None if there are no such keypoints;
        - ``median_gap``: median distance of fused keypoints, None if there are none;
        - ``largest_gap``: largest distance of a fused or regressed keypoint, 0 if there are none.
    """
    parts = [compare_poses(expected, found, score_thr) for expected, found in images]
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
