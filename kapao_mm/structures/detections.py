# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the objects that are detected in an image, in px of the network input."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PoseObjects(NamedTuple):
    """Detected people (animals, things) of an image, sorted by falling score.

    Attributes:
        bboxes: Boxes, (P, 4) xyxy.
        scores: Scores, (P,).
        labels: Categories 0..C-1, (P,) int64.
        keypoints: Regressed keypoints, (P, K, 2).
    """

    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    keypoints: np.ndarray


class KeypointObjects(NamedTuple):
    """Detected keypoints of an image, each a small square, sorted by falling score.

    Attributes:
        bboxes: Boxes, (Q, 4) xyxy.
        scores: Scores, (Q,).
        labels: Keypoint types 0..K-1, (Q,) int64.
    """

    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detections(NamedTuple):
    """Objects kept in one image by suppression, in px of the network input."""

    pose_objects: PoseObjects
    keypoint_objects: KeypointObjects


# Outputs of a batch: the index of the image and the fields of the objects of all images.
OUTPUT_NAMES = (
    *(f'pose_objects_{name}' for name in ('image', *PoseObjects._fields)),
    *(f'keypoint_objects_{name}' for name in ('image', *KeypointObjects._fields)),
)


def split_by_image(outputs: Sequence[np.ndarray], num_images: int) -> list[Detections]:
    """Splits the objects of a batch into those of each image.

    Args:
        outputs: Arrays in the order of :data:`OUTPUT_NAMES`. The indices of the images (P,) and
            (Q,) are in rising order.
        num_images: N.
    """
    first = 1 + len(PoseObjects._fields)  # first output of the keypoint objects
    poses = _split(outputs[:first], num_images)
    keypoints = _split(outputs[first:], num_images)
    return [
        Detections(PoseObjects(*pose), KeypointObjects(*keypoint))
        for pose, keypoint in zip(poses, keypoints, strict=True)
    ]


def _split(outputs: Sequence[np.ndarray], num_images: int) -> list[tuple[np.ndarray, ...]]:
    image, *fields = outputs
    starts = np.searchsorted(image, np.arange(1, num_images))
    return list(zip(*(np.split(field, starts) for field in fields), strict=True))
