# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Random geometry of training: one affine of scale and translation, and the left-right flip."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import PAD_VALUE

# An object stays if its box after the affine has (docs/method.md, Training):
MIN_SIDE = 2  # more px than this a side,
MIN_AREA = 0.1  # more than this part of its area inside the input,
MAX_ASPECT = 20  # and a smaller ratio of its sides.

INSTANCE_KEYS = ('bbox', 'bbox_score', 'category_id', 'keypoints', 'keypoints_visible')


@TRANSFORMS.register_module()
class RandomScaleTranslate(BaseTransform):
    """Scales a canvas about its centre, puts the centre near the input's, crops to the input.

    The canvas is a mosaic (2 x input) or a letterboxed image (1 x input). MMPose's
    BottomupRandomAffine scales relative to the canvas and filters nothing.

    Reads and writes ``img``, ``bbox`` (n, 4), ``keypoints`` (n, K, 2), ``keypoints_visible``
    (n, K) and the other keys of n people. Removes the letterbox's way back to the original image,
    which no longer holds.

    Args:
        input_size: Side of the square network input, px.
        scale_range: Lowest and highest scale.
        max_shift: Largest shift of the centre along each axis, relative to ``input_size``.
    """

    def __init__(self, input_size: int, scale_range: tuple[float, float], max_shift: float) -> None:
        self.input_size = input_size
        self.scale_range = scale_range
        self.max_shift = max_shift

    def transform(self, results: dict) -> dict:
        """Moves image and labels, and drops people who left the input, see the class."""
        affine = self.draw(results['img'].shape)
        results['img'] = self.warp(results['img'], *affine)
        return self.move_labels(results, *affine)

    def draw(self, shape: tuple[int, ...]) -> tuple[float, np.ndarray]:
        """Draws scale and offset (2,) for a canvas of (h, w, ...) px: x' = scale * x + offset."""
        scale = np.random.uniform(*self.scale_range)
        target = (0.5 + np.random.uniform(-self.max_shift, self.max_shift, 2)) * self.input_size
        return scale, target - scale * np.array([shape[1] / 2, shape[0] / 2])

    def window(self, scale: float, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of the canvas that :meth:`warp` reads, (x, y) from and up to, (2,) int px."""
        first, last = ((place - offset) / scale - 0.5 for place in (0.5, self.input_size - 0.5))
        # From the pixel before to the one behind, and one more each for rounding.
        return np.floor(first).astype(int) - 1, np.floor(last).astype(int) + 3

    def warp(self, image: np.ndarray, scale: float, offset: np.ndarray) -> np.ndarray:
        """Warps the canvas to the input; OpenCV's coordinate 0 is the centre of pixel 0."""
        shift_x, shift_y = offset + 0.5 * (scale - 1)
        matrix = np.array([[scale, 0, shift_x], [0, scale, shift_y]])
        size = (self.input_size, self.input_size)
        return cv2.warpAffine(image, matrix, size, borderValue=(PAD_VALUE,) * 3)

    def move_labels(self, results: dict, scale: float, offset: np.ndarray) -> dict:
        """Moves the labels, and drops people who left the input, see the class."""
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

        kept = self._stays(boxes, results['bbox'])
        for key in INSTANCE_KEYS:
            results[key] = results[key][kept]
        return results

    @staticmethod
    def _stays(boxes: np.ndarray, clipped: np.ndarray) -> np.ndarray:
        """Which people stay, (n,) bool, from their boxes (n, 4) before and after clipping."""
        sides = clipped[:, 2:] - clipped[:, :2]  # (n, 2)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return (
            (sides > MIN_SIDE).all(1)
            & (sides.prod(1) > MIN_AREA * area)
            & (sides.max(1) < MAX_ASPECT * sides.min(1))
        )


@TRANSFORMS.register_module()
class HorizontalFlip(BaseTransform):
    """Flips left and right: x to w - x, left and right keypoints swapped.

    MMPose's RandomFlip takes x to w - 1 - x: a box at the border leaves the input, and labels lie
    one input px beside the image. It also reads ``input_size`` as (h, w).

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
