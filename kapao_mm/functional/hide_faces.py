# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Turns the faces of predicted poses into mosaics."""

from collections.abc import Sequence

import cv2
import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.structures import Prediction

TILES = 7  # of a mosaic, across a face
MIN_TILE = 3  # px
FACE_OF_SPREAD = 1.8  # radius of a face, as a multiple of the farthest keypoint from its center
FACE_OF_PERSON = 0.06  # smallest radius, as a fraction of the longer side of the person's box


def hide_faces(canvas: np.ndarray, prediction: Prediction, face_types: Sequence[int]) -> None:
    """Turns the face of each pose into a mosaic, around its keypoints.

    Faces of people without a pose, and of categories without keypoints in the face, stay visible.

    Args:
        canvas: Picture, (h, w, 3) uint8, which is changed.
        prediction: Poses, in px of the picture.
        face_types: Keypoint types in a face.

    Raises:
        InputError: If no keypoint type is in a face.
    """
    types = np.array(face_types, int)
    if not len(types):
        raise InputError(
            'faces cannot be hidden: no keypoint is named eye, ear, nose, mouth, face, head or neck'
        )
    for box, keypoints, visible in zip(
        prediction.bboxes, prediction.keypoints, prediction.keypoints_visible, strict=True
    ):
        points = keypoints[types][visible[types]]
        if len(points):
            center = points.mean(0)
            spread = np.linalg.norm(points - center, axis=1).max()
            radius = max(FACE_OF_SPREAD * spread, FACE_OF_PERSON * max(box[2:] - box[:2]), 2)
            _pixelate(canvas, center, radius)


def _pixelate(canvas: np.ndarray, center: np.ndarray, radius: float) -> None:
    size = canvas.shape[1::-1]
    x1, y1 = np.clip(np.floor(center - radius), 0, size).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(center + radius), 0, size).astype(int).tolist()
    part = canvas[y1:y2, x1:x2]
    if not part.size:
        return
    tile = max(2 * radius / TILES, MIN_TILE)
    tiles = max(1, round((x2 - x1) / tile)), max(1, round((y2 - y1) / tile))
    mosaic = cv2.resize(part, tiles, interpolation=cv2.INTER_AREA)
    mosaic = cv2.resize(mosaic, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    mask = np.zeros(part.shape[:2], np.uint8)
    x, y = np.rint(center).astype(int).tolist()
    cv2.circle(mask, (x - x1, y - y1), round(radius), 255, cv2.FILLED)
    cv2.copyTo(mosaic, mask, dst=part)
