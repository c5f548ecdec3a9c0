# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Turns detected objects into poses in the original image, in numpy.

These are steps 3 and 4 of docs/method.md, Inference.
"""

from collections.abc import Sequence

import numpy as np

from kapao_mm.structures import (
    Detections,
    InferenceSettings,
    KeypointObjects,
    PoseObjects,
    Prediction,
)

from .fusion import fuse_categories
from .letterbox import Letterbox


def predict_in_image(
    detections: Detections,
    scale: np.ndarray,
    origin: np.ndarray,
    image_size: tuple[int, int],
    keypoint_counts: Sequence[int],
    settings: InferenceSettings,
) -> Prediction:
    """Maps the objects of an image to the original image and fuses them there.

    Args:
        detections: Kept objects of the image, in px of the network input.
        scale: Px of the original image per px of the network input, (2,) for x and y.
        origin: Position of the network input's upper left corner, (2,) px of the original image.
        image_size: Size (w, h) of the original image, px. Only the returned boxes are clipped to
            it.
        keypoint_counts: Number of keypoint types of each category, C numbers.
        settings: Inference settings.

    Returns:
        The prediction. Scores and labels are taken over from ``detections``; the other numbers are
        float64.
    """
    poses, objects = detections
    category_of_type = np.repeat(np.arange(len(keypoint_counts)), keypoint_counts)  # (K,)
    visible = poses.labels[:, None] == category_of_type  # (P, K)
    pose_keypoints = (poses.keypoints * scale + origin) * visible[..., None]
    squares = objects.bboxes.reshape(-1, 2, 2) * scale + origin  # (Q, 2, 2)
    keypoints, keypoint_scores = fuse_categories(
        pose_keypoints,
        poses.scores,
        poses.labels,
        squares.mean(1),
        objects.scores,
        objects.labels,
        keypoint_counts,
        settings.fusion_score_thr,
        settings.fusion_distance,
    )
    bboxes = poses.bboxes.reshape(-1, 2, 2) * scale + origin  # (P, 2, 2)
    return Prediction(
        bboxes=bboxes.clip(0, image_size).reshape(-1, 4),
        bbox_scores=poses.scores,
        labels=poses.labels,
        keypoints=keypoints,
        keypoint_scores=keypoint_scores,
        keypoints_visible=visible,
        pose_keypoints=pose_keypoints,
        keypoint_objects=KeypointObjects(
            squares.clip(0, image_size).reshape(-1, 4), objects.scores, objects.labels
        ),
    )


def filter_detections(
    detections: Detections,
    settings: InferenceSettings,
    keypoint_counts: Sequence[int],
    categories: Sequence[int] | None = None,
) -> Detections:
    """Keeps the objects above the score thresholds, and those of some categories.

    The result is the same as if suppression had been run with these thresholds, as long as they are
    not below those it was run with: an object neither suppresses one with a higher score nor takes
    its place among the kept ones.

    Args:
        detections: Objects that suppression kept.
        settings: Inference settings, of which the score thresholds and ``max_objects`` are used.
        keypoint_counts: As in :func:`predict_in_image`.
        categories: Labels of the categories to keep, with their keypoint types. None keeps all.
    """
    poses, objects = detections
    kept = poses.scores > settings.pose_score_thr
    kept_objects = objects.scores > settings.keypoint_score_thr
    if categories is not None:
        category_of_type = np.repeat(np.arange(len(keypoint_counts)), keypoint_counts)  # (K,)
        kept &= np.isin(poses.labels, categories)
        kept_objects &= np.isin(category_of_type[objects.labels], categories)
    limit = int(settings.max_objects)
    return Detections(
        PoseObjects(*(field[kept][:limit] for field in poses)),
        KeypointObjects(*(field[kept_objects][:limit] for field in objects)),
    )


def predict_from_letterbox(
    detections: Detections,
    lb: Letterbox,
    keypoint_counts: Sequence[int],
    settings: InferenceSettings,
) -> Prediction:
    """Does what :func:`predict_in_image` does, for a network input that is a letterboxed image.

    Args:
        detections: As in :func:`predict_in_image`.
        lb: Letterbox of the image.
        keypoint_counts: As in :func:`predict_in_image`.
        settings: As in :func:`predict_in_image`.
    """
    return predict_in_image(
        detections,
        scale=1 / lb.scale,
        origin=-np.array(lb.pad[:2]) / lb.scale,
        image_size=lb.image_size,
        keypoint_counts=keypoint_counts,
        settings=settings,
    )
