# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Geometric augmentation: random scale and translation, and the horizontal flip."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import PAD_VALUE

# Limits for the boxes of objects that are kept after the affine (docs/method.md, Training).
MIN_SIDE = 2  # minimum width and height, px of the network input
MIN_AREA = 0.1  # minimum share of the box area inside the network input
MAX_ASPECT = 20  # maximum ratio of the longer to the shorter side

INSTANCE_KEYS = ('bbox', 'bbox_score', 'category_id', 'keypoints', 'keypoints_visible')


@TRANSFORMS.register_module()
class RandomScaleTranslate(BaseTransform):
    """Scales and translates an image randomly, and crops it to the network input.

    The canvas is a mosaic (twice the input size) or a letterboxed image (the input size). Its
    center moves to the center of the network input plus a random shift. Objects that are too small
    afterwards are removed. MMPose's BottomupRandomAffine scales relative to the canvas and removes
    no objects.

    Reads and writes ``img``, ``bbox`` (n, 4), ``keypoints`` (n, K, 2), ``keypoints_visible``
    (n, K), ``bbox_score`` (n,) and ``category_id`` (n,). Removes the keys of the letterbox that map
    to the original image, because they become invalid.

    Args:
        input_size: Side of the square network input, px.
        scale_range: Lowest and highest scale.
        max_shift: Largest shift of the center along each axis, relative to ``input_size``.
    """

    def __init__(self, input_size: int, scale_range: tuple[float, float], max_shift: float) -> None:
        self.input_size = input_size
        self.scale_range = scale_range
        self.max_shift = max_shift

    def transform(self, results: dict) -> dict:
        """Transforms image and labels, and removes objects that are too small afterwards."""
        affine = self.draw(results['img'].shape)
        results['img'] = self.warp(results['img'], *affine)
        return self.move_labels(results, *affine)

    def draw(self, shape: tuple[int, ...]) -> tuple[float, np.ndarray]:
        """Draws a random scale and offset (2,) px, with x' = scale * x + offset.

        Args:
            shape: Shape (h, w, ...) of the canvas, px.
        """
        scale = np.random.uniform(*self.scale_range)
        target = (0.5 + np.random.uniform(-self.max_shift, self.max_shift, 2)) * self.input_size
        return scale, target - scale * np.array([shape[1] / 2, shape[0] / 2])

    def window(self, scale: float, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the part of the canvas that :meth:`warp` reads.

        Returns:
            The first (x, y) and the end (x, y) of the part, each (2,) int, px of the canvas.
        """
        first, last = ((edge - offset) / scale - 0.5 for edge in (0.5, self.input_size - 0.5))
        # Bilinear interpolation reads one px beyond; another one on each side covers rounding.
        return np.floor(first).astype(int) - 1, np.floor(last).astype(int) + 3

    def warp(self, image: np.ndarray, scale: float, offset: np.ndarray) -> np.ndarray:
        """Warps the canvas to the network input."""
        # OpenCV's coordinate 0 is the center of the first pixel; here 0 is the edge of the image.
        shift_x, shift_y = offset + 0.5 * (scale - 1)
        matrix = np.array([[scale, 0, shift_x], [0, scale, shift_y]])
        size = (self.input_size, self.input_size)
        options = dict(M=matrix, dsize=size, borderValue=(PAD_VALUE,) * 4)
        begin, end = np.clip(self.window(scale, offset), 0, image.shape[1::-1])
        if image.dtype != np.uint8 or not (begin < end).all():
            return cv2.warpAffine(image, **options)
        # OpenCV warps four channels twice as fast as three, with the same result.
        visible = np.s_[begin[1] : end[1], begin[0] : end[0]]
        canvas = np.empty((*image.shape[:2], 4), np.uint8)
        cv2.cvtColor(image[visible], cv2.COLOR_BGR2BGRA, dst=canvas[visible])
        return cv2.cvtColor(cv2.warpAffine(canvas, **options), cv2.COLOR_BGRA2BGR)

    def move_labels(self, results: dict, scale: float, offset: np.ndarray) -> dict:
        """Transforms the labels, and removes objects that are too small afterwards."""
        size = self.input_size
        results['img_shape'] = (size, size)
        for key in ('input_size', 'input_scale', 'input_center'):
            results.pop(key, None)

        offset = offset.astype(np.float32)
        boxes = results['bbox'] * scale + np.tile(offset, 2)  # (n, 4)
        keypoints = results['keypoints'] * scale + offset  # (n, K, 2)
        inside = ((keypoints >= 0) & (keypoints <= size)).all(-1)  # (n, K)
        results['bbox'] = boxes.clip(0, size)
        results['keypoints'] = keypoints
        results['keypoints_visible'] = results['keypoints_visible'] * inside

        kept = self._large_enough(boxes, results['bbox'])
        for key in INSTANCE_KEYS:
            results[key] = results[key][kept]
        return results

    @staticmethod
    def _large_enough(boxes: np.ndarray, clipped: np.ndarray) -> np.ndarray:
        """Returns which objects are kept, (n,) bool.

        Args:
            boxes: Boxes xyxy before clipping, (n, 4) px of the network input.
            clipped: The same boxes clipped to the network input, (n, 4).
        """
        sides = clipped[:, 2:] - clipped[:, :2]  # (n, 2)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return (
            (sides > MIN_SIDE).all(1)
            & (sides.prod(1) > MIN_AREA * area)
            & (sides.max(1) < MAX_ASPECT * sides.min(1))
        )


@TRANSFORMS.register_module()
class HorizontalFlip(BaseTransform):
    """Flips image and labels horizontally, and swaps left and right keypoints.

    A coordinate x becomes w - x. MMPose's RandomFlip uses w - 1 - x, which shifts labels by one px
    against the image and moves boxes at the border outside. It also reads ``input_size`` as (h, w).

    Args:
        prob: Probability of a flip.
    """

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Flips ``img``, ``bbox`` (n, 4), ``keypoints`` (n, K, 2) and their visibility (n, K)."""
        if np.random.uniform() >= self.prob:
            return results
        width = results['img'].shape[1]
        results['img'] = cv2.flip(results['img'], 1)
        boxes = results['bbox'].copy()
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        keypoints = results['keypoints'][:, results['flip_indices']]
        keypoints[..., 0] = width - keypoints[..., 0]
        visible = results['keypoints_visible'][:, results['flip_indices']]
        results.update(bbox=boxes, keypoints=keypoints, keypoints_visible=visible)
        return results
