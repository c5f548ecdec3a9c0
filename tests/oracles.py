# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Slow, literal versions of algorithms, which tests compare the package with."""

import numpy as np


def fuse_by_object(
    poses: np.ndarray,
    pose_scores: np.ndarray,
    points: np.ndarray,
    point_scores: np.ndarray,
    point_types: np.ndarray,
    score_thr: float,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuses one keypoint object after the other (Algorithm 1 of the paper); see ``fuse``."""
    keypoints, confidences = poses.astype(float), np.zeros(poses.shape[:2])
    targets = np.flatnonzero(pose_scores > score_thr)
    if not len(targets):
        return keypoints, confidences
    for q in np.argsort(-point_scores, kind='stable'):
        kind = point_types[q]
        gaps = np.linalg.norm(keypoints[targets, kind] - points[q], axis=1)
        nearest = gaps.argmin()
        pose = targets[nearest]
        if gaps[nearest] < distance and point_scores[q] > confidences[pose, kind]:
            keypoints[pose, kind], confidences[pose, kind] = points[q], point_scores[q]
    return keypoints, confidences
