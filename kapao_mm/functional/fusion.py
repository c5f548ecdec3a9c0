# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fusion of keypoint objects into pose objects (paper, Algorithm 1), in numpy."""

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
    """Moves keypoints of confident poses onto the keypoint objects that detect them.

    Keypoint objects come in order of falling confidence. Each looks at the poses' *current*
    location of its type and takes the nearest pose; it replaces that keypoint when it is nearer
    than ``distance`` and more confident. Types do not meet, so the r-th object of every type is
    handled at once.

    Args:
        poses: keypoints regressed by the pose objects, (P, K, 2), original-image px.
        pose_scores: confidences of the pose objects, (P,).
        points: centres of the keypoint objects, (Q, 2), original-image px.
        point_scores: their confidences, (Q,).
        point_types: their keypoint types 0..K-1, (Q,) int.
        score_thr: only poses with a higher confidence take part (tau_fc).
        distance: largest distance between keypoint and object, original-image px (tau_fd); 0 turns
            fusion off.

    Returns:
        Fused keypoints (P, K, 2) and their confidences (P, K), float64. A keypoint that nothing was
        fused into keeps its location and has confidence 0.
    """
    num_poses, num_types = poses.shape[:2]
    keypoints = poses.astype(np.float64)
    confidences = np.zeros((num_poses, num_types))
    targets = np.flatnonzero(pose_scores > score_thr)
    if not len(targets) or not len(points):
        return keypoints, confidences

    current = keypoints[targets].transpose(1, 0, 2).copy()  # (K, P', 2)
    current_scores = np.zeros(current.shape[:2])  # (K, P')
    order = np.lexsort((-point_scores, point_types))  # by type, then falling confidence
    types = point_types[order]
    rank = np.arange(len(types)) - np.searchsorted(types, types)  # position inside the type
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
    """Fuses each category's keypoint objects into its poses, see :func:`fuse`.

    Args:
        categories: categories of the poses, 0..C-1, (P,) int.
        keypoint_counts: the keypoint types of each category, C numbers; those of a category follow
            those of the one before, K in all.

    Returns:
        Fused keypoints (P, K, 2) and their confidences (P, K), float64; both 0 for the types of
        other categories.
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
