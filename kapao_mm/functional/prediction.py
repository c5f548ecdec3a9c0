# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Turns detected objects into poses in the original image, in numpy.

These are steps 3 and 4 of docs/method.md, Inference.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .fusion import fuse_categories
from .letterbox import Letterbox

DECIMALS = 4  # of px and scores in prediction_dict


class DetectedObjects(NamedTuple):
    """Pose objects and keypoint objects kept in one image, in px of the network input.

    Both are sorted by falling score.

    Attributes:
        boxes: Boxes of the pose objects, (P, 4) xyxy.
        scores: Scores of the pose objects, (P,).
        categories: Categories 0..C-1 of the pose objects, (P,) int64.
        keypoints: Keypoints regressed by the pose objects, (P, K, 2).
        point_boxes: Boxes of the keypoint objects, (Q, 4) xyxy.
        point_scores: Scores of the keypoint objects, (Q,).
        point_types: Keypoint types 0..K-1 of the keypoint objects, (Q,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    keypoints: np.ndarray
    point_boxes: np.ndarray
    point_scores: np.ndarray
    point_types: np.ndarray


class Prediction(NamedTuple):
    """Poses and keypoint objects of one image, in px of the original image.

    Attributes:
        boxes: Boxes of the poses, clipped to the image, (P, 4) xyxy.
        scores: Scores of the poses, (P,).
        categories: Categories 0..C-1 of the poses, (P,) int64.
        pose_keypoints: Keypoints as regressed by the pose objects, (P, K, 2).
        keypoints: Keypoints after fusion, (P, K, 2). They are 0 for keypoint types of other
            categories.
        keypoint_scores: Scores of the fused keypoint objects, (P, K). They are 0 without fusion.
        own: Whether a keypoint type belongs to the category of the pose, (P, K) bool.
        point_boxes: Boxes of the keypoint objects, clipped to the image, (Q, 4) xyxy.
        point_scores: Scores of the keypoint objects, (Q,).
        point_types: Keypoint types 0..K-1 of the keypoint objects, (Q,) int64.
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
        """Returns whether a keypoint object was fused into each keypoint, (P, K) bool."""
        return self.keypoint_scores > 0


def predict_in_image(
    objects: DetectedObjects,
    scale: np.ndarray,
    origin: np.ndarray,
    image_size: tuple[int, int],
    keypoint_counts: Sequence[int],
    settings: Mapping[str, float],
) -> Prediction:
    """Maps the objects of an image to the original image and fuses them there.

    Args:
        objects: Kept objects of the image, in px of the network input.
        scale: Px of the original image per px of the network input, (2,) for x and y.
        origin: Position of the network input's upper left corner, (2,) px of the original image.
        image_size: Size (w, h) of the original image, px. Only the returned boxes are clipped to
            it.
        keypoint_counts: Number of keypoint types of each category, C numbers.
        settings: Settings with ``fusion_score_thr`` and ``fusion_distance`` (px of the original
            image).

    Returns:
        The prediction. Scores, categories and types are taken over from ``objects``; the other
        numbers are float64.
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
    """Does what :func:`predict_in_image` does, for a network input that is a letterboxed image.

    Args:
        objects: As in :func:`predict_in_image`.
        lb: Letterbox of the image.
        keypoint_counts: As in :func:`predict_in_image`.
        settings: As in :func:`predict_in_image`.

    Returns:
        The prediction, see :func:`predict_in_image`.
    """
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
    """Converts a prediction to plain numbers and strings for JSON, in px of the original image.

    Args:
        prediction: Poses and keypoint objects of an image.
        image: Path of the image.
        image_size: Size (w, h) of the image, px.
        keypoint_names: Names of all K keypoint types.
        categories: A dict for each of the C categories, with ``name`` and ``keypoint_ids``, its
            keypoint types.

    Returns:
        A dict with

        - ``image``: path; ``width`` and ``height``: px; ``keypoint_names``: K names;
        - ``poses``: a dict for each pose with ``bbox`` [x1, y1, x2, y2], ``score``, ``keypoints``
          (K, 3) of x, y and score (0 without fusion), and ``fused`` (K,);
        - ``keypoint_objects``: a dict for each keypoint object with ``bbox``, ``score`` and
          ``type``, the name of the keypoint type.

        With several categories, ``keypoint_names`` is a dict of the names of each category, and
        each pose has the name of its ``category`` and only that category's ``keypoints`` and
        ``fused``.
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
    """Turns columns of equal length into a list of dicts, one for each row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
