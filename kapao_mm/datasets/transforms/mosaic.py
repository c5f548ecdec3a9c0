# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Mosaic whose samples know their images, and the part of it that training sees."""

from collections import defaultdict
from typing import NamedTuple

import cv2
import numpy as np
from mmpose.datasets.transforms import Mosaic
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import PAD_VALUE
from kapao_mm.functional.pixels import round_pixels

from .affine import RandomScaleTranslate

PLACES = ('top_left', 'top_right', 'bottom_left', 'bottom_right')  # MMPose's names, in its order


@TRANSFORMS.register_module()
class TracedMosaic(Mosaic):
    """MMPose's Mosaic, which forgets where three of its four images came from.

    Adds ``mosaic_paths``, the paths of the four, to the sample: a message about a batch can name
    them. Where MMPose would shrink a side of an image to 0 px, and fail, its edge is repeated until
    that becomes 1 px.
    """

    def apply_mix(self, results: dict) -> dict:
        """Mixes the images, see :class:`Mosaic`."""
        samples = (results, *results['mixed_data_list'])
        for sample in samples:
            # The canvas is uint8: numbers outside 0..255 would wrap around.
            sample['img'] = self._thicken(round_pixels(sample['img']))
        paths = [sample['img_path'] for sample in samples]
        return {**super().apply_mix(results), 'mosaic_paths': paths}

    def _thicken(self, image: np.ndarray) -> np.ndarray:
        """Repeats the edge of an image (h, w, 3) that would become less than 1 px wide or high."""
        height, width = image.shape[:2]
        scale = min(self.img_scale[0] / width, self.img_scale[1] / height)
        if min(height, width) * scale >= 1:
            return image
        least = int(1 / scale) + 1  # px
        bottom, right = max(0, least - height), max(0, least - width)
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


@TRANSFORMS.register_module()
class MosaicScaleTranslate(TracedMosaic):
    """TracedMosaic and RandomScaleTranslate at once, which paints only what the input shows.

    MMPose paints a canvas of four times the input, most of which is cropped away. Draws and samples
    are those of the two transforms, bit for bit.

    Args:
        input_size: Side of the square network input, px; that of the canvas is twice as long.
        scale_range: Lowest and highest scale.
        max_shift: Largest shift of the centre along each axis, relative to ``input_size``.
        pre_transform: Transforms of the three other images.
    """

    def __init__(
        self,
        input_size: int,
        scale_range: tuple[float, float],
        max_shift: float,
        pre_transform: list[dict],
    ) -> None:
        super().__init__(img_scale=(input_size, input_size), pre_transform=pre_transform)
        self.affine = RandomScaleTranslate(input_size, scale_range, max_shift)

    def apply_mix(self, results: dict) -> dict:
        """Mixes the images, then moves image and labels, see both classes."""
        results = super().apply_mix(results)
        canvas = results['img']
        affine = self.affine.draw(canvas.shape)
        painted = canvas.paint(*self.affine.window(*affine))
        results['img'] = self.affine.warp(painted, *affine)
        return self.affine.move_labels(results, *affine)

    def _create_mosaic_image(
        self, results: dict, mixed_data_list: list[dict]
    ) -> tuple['Canvas', dict[str, np.ndarray]]:
        """A canvas that is still to be painted, and the labels on it, as MMPose makes them."""
        centre = [int(np.random.uniform(*self.center_range) * side) for side in self.img_scale]
        tiles, labels = [], defaultdict(list)
        for place, sample in zip(PLACES, (results, *mixed_data_list), strict=True):
            height, width = sample['img'].shape[:2]
            scale = min(self.img_scale[1] / height, self.img_scale[0] / width)
            size = (int(width * scale), int(height * scale))
            seen, cropped = self._mosaic_combine(place, centre, size)
            corner = np.subtract(seen[:2], cropped[:2])
            tiles.append(Tile(sample['img'], size, corner, seen))
            shift = corner.astype(np.float32)
            labels['bboxes'].append(sample['bbox'] * scale + np.tile(shift, 2))
            labels['keypoints'].append(sample['keypoints'] * scale + shift)
            labels['keypoints_visible'].append(sample['keypoints_visible'])
            labels['bbox_scores'].append(sample['bbox_score'])
            labels['category_id'].append(sample['category_id'])
        for key, parts in labels.items():
            labels[key] = np.concatenate(parts)
        return Canvas((2 * self.img_scale[1], 2 * self.img_scale[0], 3), tiles), labels


class Tile(NamedTuple):
    """An image of a mosaic, not yet resized; places are (x, y) canvas px.

    Attributes:
        image: (h, w, 3) uint8.
        size: (w, h) of the resized image.
        corner: its left upper corner, which may lie outside the canvas.
        seen: the part of it on the canvas, xyxy.
    """

    image: np.ndarray
    size: tuple[int, int]
    corner: np.ndarray
    seen: tuple[int, int, int, int]

    def resized(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The part from `low` up to `high`, both (x, y) px of the resized image."""
        image, start = self.image, np.array([0, 0])
        factor, rest = np.divmod(self.size, image.shape[1::-1])
        if rest.any():
            image = cv2.resize(image, self.size)
        else:  # parts of it give the same bits; a pixel more on each side is mixed in
            first, last = np.maximum(low // factor - 1, 0), -(-high // factor) + 1
            image = image[first[1] : last[1], first[0] : last[0]]
            image, start = cv2.resize(image, image.shape[1::-1] * factor), first * factor
        (x1, y1), (x2, y2) = low - start, high - start
        return image[y1:y2, x1:x2]


class Canvas(NamedTuple):
    """A mosaic that is still to be painted: its shape (h, w, 3) and its images."""

    shape: tuple[int, int, int]
    tiles: list[Tile]

    def paint(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The canvas, painted from `low` up to `high`, both (x, y) px, and not set elsewhere."""
        low, high = np.clip((low, high), 0, self.shape[1::-1])
        canvas = np.empty(self.shape, np.uint8)
        canvas[low[1] : high[1], low[0] : high[0]] = PAD_VALUE
        for tile in self.tiles:
            x1, y1 = first = np.maximum(tile.seen[:2], low)
            x2, y2 = last = np.minimum(tile.seen[2:], high)
            if (first < last).all():
                canvas[y1:y2, x1:x2] = tile.resized(first - tile.corner, last - tile.corner)
        return canvas
