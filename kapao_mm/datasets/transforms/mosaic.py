# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Mosaic whose samples know their images."""

import cv2
import numpy as np
from mmpose.datasets.transforms import Mosaic
from mmpose.registry import TRANSFORMS


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
            sample['img'] = self._thicken(sample['img'])
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
