# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fuses keypoint objects into pose objects (docs/method.md, Inference, step 4), in numpy."""

from collections.abc import Sequence

import numpy as np


def fuse(
    poses: np.ndarray,
    pose_scores: np.ndarray,
    points: np.ndarray,
    point_scores: np.ndarray,
    point_types: np.ndarray,
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Moves keypoints of confident poses onto nearby keypoint objects.

    Keypoint objects are taken in the order of falling score. Each one looks for the pose whose
    *current* keypoint of its type is nearest. It replaces that keypoint if it is nearer than
    ``distance`` and has a higher score than the keypoint. The types do not affect each other, so
    the keypoint objects of rank r of all types are handled at once.

    Args:
        poses: Keypoints regressed by the pose objects, (P, K, 2) px of the original image.
        pose_scores: Scores of the pose objects, (P,).
        points: Centers of the keypoint objects, (Q, 2) px of the original image.
        point_scores: Scores of the keypoint objects, (Q,).
        point_types: Keypoint types 0..K-1 of the keypoint objects, (Q,) int.
        score_thr: Only poses with a score above this take part (tau_fc).
        distance: A keypoint object must be nearer than this to the keypoint, px of the original
            image (tau_fd). 0 turns fusion off.

    Returns:
        Keypoints after fusion (P, K, 2) and their scores (P, K), float64. A keypoint without fusion
        keeps its position and has the score 0.
    """
    num_poses, num_types = poses.shape[:2]
    keypoints = poses.astype(np.float64)
    confidences = np.zeros((num_poses, num_types))
    targets = np.flatnonzero(pose_scores > score_thr)
    if not len(targets) or not len(points):
        return keypoints, confidences

    current = keypoints[targets].transpose(1, 0, 2).copy()  # (K, P', 2)
    current_scores = np.zeros(current.shape[:2])  # (K, P')
    order = np.lexsort((-point_scores, point_types))  # by type, then falling score
    types = point_types[order]
    rank = np.arange(len(types)) - np.searchsorted(types, types)  # rank within the type
    for r in range(rank.max() + 1):
        objects = order[rank == r]
        kind = point_types[objects]  # (T,), each type at most once
        gaps = np.linalg.norm(current[kind] - points[objects, None], axis=-1)  # (T, P')
        nearest = gaps.argmin(axis=1)
        better = gaps[np.arange(len(kind)), nearest] < distance
        better &= point_scores[objects] > current_scores[kind, nearest]
        kind, nearest, objects = kind[better], nearest[better], objects[better]
        current[kind, nearest] = points[objects]
        current_scores[kind, nearest] = point_scores[objects]

    keypoints[targets] = current.transpose(1, 0, 2)
    confidences[targets] = current_scores.T
    return keypoints, confidences


def fuse_categories(
    poses: np.ndarray,
    pose_scores: np.ndarray,
    categories: np.ndarray,
    points: np.ndarray,
    point_scores: np.ndarray,
    point_types: np.ndarray,
    keypoint_counts: Sequence[int],
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuses the keypoint objects of each category into the poses of that category.

    Args:
        poses: As in :func:`fuse`.
        pose_scores: As in :func:`fuse`.
        categories: Categories 0..C-1 of the poses, (P,) int.
        points: As in :func:`fuse`.
        point_scores: As in :func:`fuse`.
        point_types: As in :func:`fuse`.
        keypoint_counts: Number of keypoint types of each category, C numbers with the sum K. The
            types are numbered category by category.
        score_thr: As in :func:`fuse`.
        distance: As in :func:`fuse`.

    Returns:
        Keypoints after fusion (P, K, 2) and their scores (P, K), float64. Both are 0 for the
        keypoint types of other categories.
    """
    keypoints, confidences = np.zeros(poses.shape), np.zeros(poses.shape[:2])
    stops = np.cumsum(keypoint_counts)
    for category, (start, stop) in enumerate(zip(stops - keypoint_counts, stops, strict=True)):
        of_pose = categories == category
        of_point = (point_types >= start) & (point_types < stop)
        keypoints[of_pose, start:stop], confidences[of_pose, start:stop] = fuse(
            poses[of_pose, start:stop],
            pose_scores[of_pose],
            points[of_point],
            point_scores[of_point],
            point_types[of_point] - start,
            score_thr,
            distance,
        )
    return keypoints, confidences
