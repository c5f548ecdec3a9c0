# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fuses keypoint objects into pose objects (docs/method.md, Inference, step 4), in numpy."""

from collections.abc import Sequence

import numpy as np


def fuse(
    pose_keypoints: np.ndarray,
    pose_scores: np.ndarray,
    centers: np.ndarray,
    object_scores: np.ndarray,
    object_types: np.ndarray,
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Moves keypoints of confident poses onto nearby keypoint objects.

    Keypoint objects are taken in the order of falling score. Each one looks for the pose whose
    *current* keypoint of its type is nearest. It replaces that keypoint if it is nearer than
    ``distance`` and has a higher score than the keypoint. The types do not affect each other, so
    the keypoint objects of rank r of all types are handled at once.

    Args:
        pose_keypoints: Keypoints regressed by the pose objects, (P, K, 2) px of the original image.
        pose_scores: Scores of the pose objects, (P,).
        centers: Centers of the keypoint objects, (Q, 2) px of the original image.
        object_scores: Scores of the keypoint objects, (Q,).
        object_types: Keypoint types 0..K-1 of the keypoint objects, (Q,) int.
        score_thr: Only poses with a score above this take part (tau_fc).
        distance: A keypoint object must be nearer than this to the keypoint, px of the original
            image (tau_fd). 0 turns fusion off.

    Returns:
        Keypoints after fusion (P, K, 2) and their scores (P, K), float64. A keypoint without fusion
        keeps its position and has the score 0.
    """
    num_poses, num_types = pose_keypoints.shape[:2]
    keypoints = pose_keypoints.astype(np.float64)
    keypoint_scores = np.zeros((num_poses, num_types))
    targets = np.flatnonzero(pose_scores > score_thr)
    if not len(targets) or not len(centers):
        return keypoints, keypoint_scores

    current = keypoints[targets].transpose(1, 0, 2).copy()  # (K, P', 2)
    current_scores = np.zeros(current.shape[:2])  # (K, P')
    order = np.lexsort((-object_scores, object_types))  # by type, then falling score
    ordered = object_types[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)  # rank within the type
    for r in range(rank.max() + 1):
        objects = order[rank == r]
        types = object_types[objects]  # (T,), each type at most once
        distances = np.linalg.norm(current[types] - centers[objects, None], axis=-1)  # (T, P')
        nearest = distances.argmin(axis=1)
        better = distances[np.arange(len(types)), nearest] < distance
        better &= object_scores[objects] > current_scores[types, nearest]
        types, nearest, objects = types[better], nearest[better], objects[better]
        current[types, nearest] = centers[objects]
        current_scores[types, nearest] = object_scores[objects]

    keypoints[targets] = current.transpose(1, 0, 2)
    keypoint_scores[targets] = current_scores.T
    return keypoints, keypoint_scores


def fuse_categories(
    pose_keypoints: np.ndarray,
    pose_scores: np.ndarray,
    categories: np.ndarray,
    centers: np.ndarray,
    object_scores: np.ndarray,
    object_types: np.ndarray,
    keypoint_counts: Sequence[int],
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuses the keypoint objects of each category into the poses of that category.

    Args:
        pose_keypoints: As in :func:`fuse`.
        pose_scores: As in :func:`fuse`.
        categories: Categories 0..C-1 of the poses, (P,) int.
        centers: As in :func:`fuse`.
        object_scores: As in :func:`fuse`.
        object_types: As in :func:`fuse`.
        keypoint_counts: Number of keypoint types of each category, C numbers with the sum K. The
            types are numbered category by category.
        score_thr: As in :func:`fuse`.
        distance: As in :func:`fuse`.

    Returns:
        Keypoints after fusion (P, K, 2) and their scores (P, K), float64. Both are 0 for the
        keypoint types of other categories.
    """
    keypoints, keypoint_scores = np.zeros(pose_keypoints.shape), np.zeros(pose_keypoints.shape[:2])
    stops = np.cumsum(keypoint_counts)
    for category, (start, stop) in enumerate(zip(stops - keypoint_counts, stops, strict=True)):
        of_pose = categories == category
        of_object = (object_types >= start) & (object_types < stop)
        keypoints[of_pose, start:stop], keypoint_scores[of_pose, start:stop] = fuse(
            pose_keypoints[of_pose, start:stop],
            pose_scores[of_pose],
            centers[of_object],
            object_scores[of_object],
            object_types[of_object] - start,
            score_thr,
            distance,
        )
    return keypoints, keypoint_scores
