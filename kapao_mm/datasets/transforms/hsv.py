# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Color augmentation."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.pixels import round_pixels


@TRANSFORMS.register_module()
class HSVGain(BaseTransform):
    """Multiplies hue, saturation and value of an image by random factors.

    The factors are 1 + U(-1, 1) * gain (docs/method.md, Training). MMPose's YOLOXHSVRandomAug adds
    random shifts instead, and leaves each channel unchanged half the time.

    Reads and writes ``img`` (h, w, 3) uint8 BGR; a floating-point image is rounded.

    Args:
        gains: Largest relative change of hue, saturation and value.
    """

    def __init__(self, gains: tuple[float, float, float]) -> None:
        self.gains = np.array(gains)

    def transform(self, results: dict) -> dict:
        """Changes the colors of ``results['img']``."""
        factors = 1 + np.random.uniform(-1, 1, 3) * self.gains
        levels = np.arange(256)[:, None] * factors  # (256, 3)
        levels[:, 0] %= 180  # OpenCV's hue is in degrees / 2 and wraps around
        table = levels.clip(0, 255).astype(np.uint8)[None]  # (1, 256, 3)
        image = round_pixels(results['img'])
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table)
        results['img'] = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return results
