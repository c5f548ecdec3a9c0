# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Mosaic augmentation, also combined with scale and translation for speed."""

from collections import defaultdict
from typing import NamedTuple

import cv2
import numpy as np
from mmpose.datasets.transforms import Mosaic
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import PAD_VALUE
from kapao_mm.functional.pixels import round_pixels

from .affine import RandomScaleTranslate

# Positions of the images in a mosaic, with MMPose's names and in its order.
POSITIONS = ('top_left', 'top_right', 'bottom_left', 'bottom_right')


@TRANSFORMS.register_module()
class TracedMosaic(Mosaic):
    """Mosaic of MMPose that also records the paths of its four images.

    The sample gets ``mosaic_paths``, so that messages about a batch can name all images. MMPose
    fails if it would shrink a side of an image to 0 px; here the edge of such an image is
    repeated, so that the side becomes 1 px.
    """

    def apply_mix(self, results: dict) -> dict:
        """Combines four images into a mosaic."""
        samples = (results, *results['mixed_data_list'])
        for sample in samples:
            # The canvas is uint8, in which values outside 0..255 would wrap around.
            sample['img'] = self._pad_if_thin(round_pixels(sample['img']))
        paths = [sample['img_path'] for sample in samples]
        return {**super().apply_mix(results), 'mosaic_paths': paths}

    def _pad_if_thin(self, image: np.ndarray) -> np.ndarray:
        """Pads an image (h, w, 3) that would shrink below 1 px in width or height."""
        height, width = image.shape[:2]
        scale = min(self.img_scale[0] / width, self.img_scale[1] / height)
        if min(height, width) * scale >= 1:
            return image
        min_side = int(1 / scale) + 1  # px
        bottom, right = max(0, min_side - height), max(0, min_side - width)
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


@TRANSFORMS.register_module()
class MosaicScaleTranslate(TracedMosaic):
    """Combines TracedMosaic and RandomScaleTranslate, and draws only the part that remains visible.

    The full canvas has four times the area of the network input, and most of it is cropped away.
    The random numbers and the samples are identical to those of the two separate transforms.

    Args:
        input_size: Side of the square network input, px. The canvas is twice as large.
        scale_range: Lowest and highest scale.
        max_shift: Largest shift of the center along each axis, relative to ``input_size``.
        pre_transform: Transforms applied to the three additional images.
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
        """Combines four images, then scales and translates image and labels."""
        results = super().apply_mix(results)
        canvas = results['img']
        affine = self.affine.draw(canvas.shape)
        painted = canvas.paint(*self.affine.window(*affine))
        results['img'] = self.affine.warp(painted, *affine)
        return self.affine.move_labels(results, *affine)

    def _create_mosaic_image(
        self, results: dict, mixed_data_list: list[dict]
    ) -> tuple['Canvas', dict[str, np.ndarray]]:
        """Returns a canvas that is not painted yet, and the labels on it.

        It draws the same random numbers as MMPose and computes the same labels.
        """
        center = [int(np.random.uniform(*self.center_range) * side) for side in self.img_scale]
        tiles, labels = [], defaultdict(list)
        for position, sample in zip(POSITIONS, (results, *mixed_data_list), strict=True):
            height, width = sample['img'].shape[:2]
            scale = min(self.img_scale[1] / height, self.img_scale[0] / width)
            size = (int(width * scale), int(height * scale))
            visible, cropped = self._mosaic_combine(position, center, size)
            corner = np.subtract(visible[:2], cropped[:2])
            tiles.append(Tile(sample['img'], size, corner, visible))
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
    """An image of a mosaic before it is resized.

    Attributes:
        image: Image, (h, w, 3) uint8.
        size: Size (w, h) of the resized image, px of the canvas.
        corner: Top left corner (x, y) of the resized image, px of the canvas; may lie outside.
        visible: Part of the canvas that shows the image, xyxy px.
    """

    image: np.ndarray
    size: tuple[int, int]
    corner: np.ndarray
    visible: tuple[int, int, int, int]

    def resized(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns the part of the resized image from ``begin`` to ``end``, both (x, y) px of it."""
        image, start = self.image, np.array([0, 0])
        factor, rest = np.divmod(self.size, image.shape[1::-1])
        if rest.any():
            image = cv2.resize(image, self.size)
        # With integer factors a part can be resized alone with the same result, if it has one more
        # pixel on each side for the interpolation.
        else:
            first, last = np.maximum(begin // factor - 1, 0), -(-end // factor) + 1
            image = image[first[1] : last[1], first[0] : last[0]]
            image, start = cv2.resize(image, image.shape[1::-1] * factor), first * factor
        (x1, y1), (x2, y2) = begin - start, end - start
        return image[y1:y2, x1:x2]


class Canvas(NamedTuple):
    """A mosaic that is not painted yet.

    Attributes:
        shape: Shape (h, w, 3) of the mosaic, px.
        tiles: Images of the mosaic.
    """

    shape: tuple[int, int, int]
    tiles: list[Tile]

    def paint(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Returns the canvas, painted from ``begin`` to ``end`` (x, y) px, undefined elsewhere."""
        begin, end = np.clip((begin, end), 0, self.shape[1::-1])
        canvas = np.empty(self.shape, np.uint8)
        canvas[begin[1] : end[1], begin[0] : end[0]] = PAD_VALUE
        for tile in self.tiles:
            x1, y1 = first = np.maximum(tile.visible[:2], begin)
            x2, y2 = last = np.minimum(tile.visible[2:], end)
            if (first < last).all():
                canvas[y1:y2, x1:x2] = tile.resized(first - tile.corner, last - tile.corner)
        return canvas
