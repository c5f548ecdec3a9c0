# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Turns detected objects into poses of the original image, in numpy.

These are steps 3 and 4 of docs/method.md, Inference.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .fusion import fuse_categories
from .letterbox import Letterbox

DECIMALS = 4  # of the numbers in prediction_dict, px and scores


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

    @property
    def fused(self) -> np.ndarray:
        """Into which keypoints an object was fused, (P, K) bool."""
        return self.keypoint_scores > 0


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


def predict_from_letterbox(
    objects: DetectedObjects,
    lb: Letterbox,
    keypoint_counts: Sequence[int],
    settings: Mapping[str, float],
) -> Prediction:
    """:func:`predict_in_image` for an input that is a letterboxed image; arguments as there."""
    return predict_in_image(
        objects,
        scale=1 / lb.scale,
        origin=-np.array(lb.pad[:2]) / lb.scale,
        image_size=lb.image_size,
        keypoint_counts=keypoint_counts,
        settings=settings,
    )


def prediction_dict(
    prediction: Prediction,
    image: str,
    image_size: tuple[int, int],
    keypoint_names: Sequence[str],
    categories: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A prediction as plain numbers and strings, ready for JSON; all px of the original image.

    Args:
        prediction: the poses and keypoint objects of an image.
        image: its path.
        image_size: its (w, h).
        keypoint_names: of all types, K.
        categories: C, each with ``name`` and ``keypoint_ids``, its keypoint types.

    Returns:
        ``image`` (path), ``width``, ``height``, ``keypoint_names`` (K,); ``poses``, each with
        ``bbox`` [x1, y1, x2, y2], ``score``, ``keypoints`` (K, 3) of x, y and confidence (0 where
        nothing was fused), ``fused`` (K,); ``keypoint_objects``, each with ``bbox``, ``score`` and
        ``type``, a keypoint name. With several categories each pose has its ``category``, and
        ``keypoints`` and ``fused`` of that only; ``keypoint_names`` are lists by category.
    """
    own = prediction.own
    keypoints = np.dstack([prediction.keypoints, prediction.keypoint_scores])  # (P, K, 3)
    by_category = {
        category['name']: [keypoint_names[i] for i in category['keypoint_ids']]
        for category in categories
    }
    several = len(categories) > 1
    category = dict(category=[categories[c]['name'] for c in prediction.categories])
    width, height = image_size
    return {
        'image': image,
        'width': width,
        'height': height,
        'keypoint_names': by_category if several else list(keypoint_names),
        'poses': _records(
            bbox=_numbers(prediction.boxes),
            score=_numbers(prediction.scores),
            keypoints=[_numbers(k[of_pose]) for k, of_pose in zip(keypoints, own, strict=True)],
            fused=[f[of_pose].tolist() for f, of_pose in zip(prediction.fused, own, strict=True)],
            **(category if several else {}),
        ),
        'keypoint_objects': _records(
            bbox=_numbers(prediction.point_boxes),
            score=_numbers(prediction.point_scores),
            type=[keypoint_names[kind] for kind in prediction.point_types],
        ),
    }


def _numbers(values: np.ndarray) -> list:
    return np.round(values.astype(np.float64), DECIMALS).tolist()


def _records(**columns: list) -> list[dict[str, Any]]:
    """Lists of equal length -> one dict for each row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
