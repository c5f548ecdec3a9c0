# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Slow, literal versions of algorithms, which tests compare the package with."""

import numpy as np


def fuse_by_object(
    poses: np.ndarray,
    pose_scores: np.ndarray,
    centers: np.ndarray,
    object_scores: np.ndarray,
    object_types: np.ndarray,
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuses one keypoint object after the other (Algorithm 1 of the paper); see ``fuse``."""
    keypoints, keypoint_scores = poses.astype(float), np.zeros(poses.shape[:2])
    targets = np.flatnonzero(pose_scores > score_thr)
    if not len(targets):
        return keypoints, keypoint_scores
    for q in np.argsort(-object_scores, kind='stable'):
        keypoint_type = object_types[q]
        distances = np.linalg.norm(keypoints[targets, keypoint_type] - centers[q], axis=1)
        nearest = distances.argmin()
        pose = targets[nearest]
        if (
            distances[nearest] < distance
            and object_scores[q] > keypoint_scores[pose, keypoint_type]
        ):
            keypoints[pose, keypoint_type], keypoint_scores[pose, keypoint_type] = (
                centers[q],
                object_scores[q],
            )
    return keypoints, keypoint_scores
