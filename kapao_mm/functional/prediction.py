# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Detected objects to poses in the original image (spec, Inference 3 and 4), in numpy."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .fusion import fuse_categories


class DetectedObjects(NamedTuple):
    """Pose objects and keypoint objects kept in one image, input px, by falling confidence.

    Attributes:
        boxes: of the pose objects, (P, 4) xyxy.
        scores: (P,).
        categories: 0..C-1, (P,) int64.
        keypoints: (P, K, 2).
        point_boxes: of the keypoint objects, (Q, 4) xyxy.
        point_scores: (Q,).
        point_types: keypoint types 0..K-1, (Q,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    keypoints: np.ndarray
    point_boxes: np.ndarray
    point_scores: np.ndarray
    point_types: np.ndarray


class Prediction(NamedTuple):
    """Poses of one image and the keypoint objects they were fused with, original-image px.

    Attributes:
        boxes: of the poses, clipped to the image, (P, 4) xyxy.
        scores: (P,).
        categories: 0..C-1, (P,) int64.
        pose_keypoints: as the pose objects regress them, (P, K, 2).
        keypoints: after fusion, (P, K, 2); 0 for the types of other categories.
        keypoint_scores: confidences of the keypoint objects fused in, 0 where none was, (P, K).
        own: which types are those of the pose's category, (P, K) bool.
        point_boxes: of the keypoint objects, clipped to the image, (Q, 4) xyxy.
        point_scores: (Q,).
        point_types: keypoint types 0..K-1, (Q,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    pose_keypoints: np.ndarray
    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    own: np.ndarray
    point_boxes: np.ndarray
    point_scores: np.ndarray
    point_types: np.ndarray


def predict_in_image(
    objects: DetectedObjects,
    scale: np.ndarray,
    origin: np.ndarray,
    image_size: tuple[int, int],
    keypoint_counts: Sequence[int],
    settings: Mapping[str, float],
) -> Prediction:
    """Maps the objects to the original image and fuses them there.

    Args:
        objects: the kept objects of the image, input px.
        scale: original px per input px, (2,) for x and y.
        origin: where the input's corner lies in the original image, (2,) px.
        image_size: (w, h) of the original image; boxes are clipped to it, for output only.
        keypoint_counts: the keypoint types of each category, C numbers.
        settings: with ``fusion_score_thr`` and ``fusion_distance``, original-image px.

    Returns:
        The poses, float64 but for the scores and indices taken over from ``objects``.
    """
    category_of_type = np.repeat(np.arange(len(keypoint_counts)), keypoint_counts)  # (K,)
    own = objects.categories[:, None] == category_of_type  # (P, K)
    pose_keypoints = (objects.keypoints * scale + origin) * own[..., None]
    point_boxes = objects.point_boxes.reshape(-1, 2, 2) * scale + origin  # (Q, 2, 2)
    keypoints, confidences = fuse_categories(
        pose_keypoints,
        objects.scores,
        objects.categories,
        point_boxes.mean(1),
        objects.point_scores,
        objects.point_types,
        keypoint_counts,
        settings['fusion_score_thr'],
        settings['fusion_distance'],
    )
    boxes = objects.boxes.reshape(-1, 2, 2) * scale + origin  # (P, 2, 2)
    return Prediction(
        boxes=boxes.clip(0, image_size).reshape(-1, 4),
        scores=objects.scores,
        categories=objects.categories,
        pose_keypoints=pose_keypoints,
        keypoints=keypoints,
        keypoint_scores=confidences,
        own=own,
        point_boxes=point_boxes.clip(0, image_size).reshape(-1, 4),
        point_scores=objects.point_scores,
        point_types=objects.point_types,
    )
