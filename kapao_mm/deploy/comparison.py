# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""How far apart two detections of one picture are, as of a model and of what it was exported to."""

from typing import NamedTuple

import numpy as np

from kapao_mm.functional.prediction import DetectedObjects


class Difference(NamedTuple):
    """The largest differences between the same objects.

    They are infinite if an object has no counterpart, or if one of its numbers is NaN.

    Attributes:
        position: of a coordinate of a box or keypoint, px.
        score: of a confidence.
    """

    position: float
    score: float


def compare_objects(found: DetectedObjects, expected: DetectedObjects) -> Difference:
    """Compares each object with the nearest one of its class.

    Their order is no matter: rounding alone swaps objects of about the same confidence.
    """
    poses, points = (
        _compare(one, other) for one, other in zip(_split(found), _split(expected), strict=True)
    )
    return Difference(max(poses.position, points.position), max(poses.score, points.score))


def _split(objects: DetectedObjects) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Classes (n,), scores (n,) and points (n, p, 2) of the pose objects, the keypoint objects."""
    corners, point_corners = (
        boxes.reshape(-1, 2, 2) for boxes in (objects.boxes, objects.point_boxes)
    )
    return (
        (objects.categories, objects.scores, np.hstack((corners, objects.keypoints))),
        (objects.point_types, objects.point_scores, point_corners),
    )


def _compare(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> Difference:
    (classes, scores, places), (other_classes, other_scores, other_places) = found, expected
    if len(scores) != len(other_scores):
        return Difference(np.inf, np.inf)
    if not len(scores):
        return Difference(0.0, 0.0)
    gaps = np.abs(places[:, None] - other_places).max((2, 3))  # (n, n)
    gaps[(classes[:, None] != other_classes) | np.isnan(gaps)] = np.inf
    nearest = gaps.argmin(1)
    if len(np.unique(nearest)) < len(nearest):
        return Difference(np.inf, np.inf)
    score = np.nan_to_num(np.abs(scores - other_scores[nearest]), nan=np.inf).max()
    return Difference(float(gaps.min(1).max()), float(score))
