# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares a model's detections with those of its exported file on the same image."""

from typing import NamedTuple

import numpy as np

from kapao_mm.structures import Detections


class Difference(NamedTuple):
    """The largest differences between matching objects of two detections.

    They are infinite if an object has no counterpart, or if one of its numbers is NaN.

    Attributes:
        position: Largest difference of a coordinate of a box or keypoint, px.
        score: Largest difference of a score.
    """

    position: float
    score: float


def compare_objects(found: Detections, expected: Detections) -> Difference:
    """Compares each object with the nearest one of the same class.

    The order of objects is ignored, because rounding alone can swap objects with similar scores.

    Args:
        found: Objects of one detection, in px of the network input.
        expected: Objects of the other detection, in px of the network input.
    """
    poses, keypoints = (
        _compare(one, other) for one, other in zip(_split(found), _split(expected), strict=True)
    )
    return Difference(max(poses.position, keypoints.position), max(poses.score, keypoints.score))


def _split(objects: Detections) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Splits objects into pose objects and keypoint objects.

    Returns:
        For each of both its classes (n,), scores (n,) and positions (n, p, 2): the corners of the
        box and, of a pose object, the keypoints.
    """
    poses, keypoints = objects
    corners, squares = (boxes.reshape(-1, 2, 2) for boxes in (poses.bboxes, keypoints.bboxes))
    return (
        (poses.labels, poses.scores, np.hstack((corners, poses.keypoints))),
        (keypoints.labels, keypoints.scores, squares),
    )


def _compare(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> Difference:
    (classes, scores, positions), (other_classes, other_scores, other_positions) = found, expected
    if len(scores) != len(other_scores):
        return Difference(np.inf, np.inf)
    if not len(scores):
        return Difference(0.0, 0.0)
    distances = np.abs(positions[:, None] - other_positions).max((2, 3))  # (n, n)
    distances[(classes[:, None] != other_classes) | np.isnan(distances)] = np.inf
    nearest = distances.argmin(1)
    if len(np.unique(nearest)) < len(nearest):
        return Difference(np.inf, np.inf)
    score = np.nan_to_num(np.abs(scores - other_scores[nearest]), nan=np.inf).max()
    return Difference(float(distances.min(1).max()), float(score))
