# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Transform that resizes and pads an image to the network input."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import INPUT_DIVISOR, letterbox, resize_and_pad, to_input


@TRANSFORMS.register_module()
class Letterbox(BaseTransform):
    """Resizes and pads an image to the network input (:mod:`kapao_mm.functional.letterbox`).

    MMPose's BottomupResize always pads to a square, and rounds and interpolates in another way.

    Reads ``img`` and, if there are labels, ``bbox`` (n, 4) and ``keypoints`` (n, K, 2). Writes
    them in px of the network input. Also writes ``img_shape`` (h, w), ``input_size`` (w, h),
    ``input_scale`` (2,) and ``input_center`` (2,), so that MMPose's ``x / input_size * input_scale
    + input_center - 0.5 * input_scale`` maps px of the network input to px of the original image.

    Args:
        input_size: Longer side of the network input, px.
        square: Whether to pad to a square instead of the next multiple of ``divisor``.
        divisor: Divisor of both sides of the network input, px.
        move_labels: Whether to replace boxes and keypoints by the moved ones, as training needs.
            Otherwise they stay in px of the original image, as MMPose's visualizer needs them, and
            the moved ones are ``transformed_bbox`` and ``transformed_keypoints``.
    """

    def __init__(
        self,
        input_size: int,
        square: bool = False,
        divisor: int = INPUT_DIVISOR,
        move_labels: bool = True,
    ) -> None:
        self.input_size = input_size
        self.square = square
        self.divisor = divisor
        self.move_labels = move_labels

    def transform(self, results: dict) -> dict:
        """Resizes and pads ``results['img']``, and moves the labels."""
        height, width = results['img'].shape[:2]
        lb = letterbox((width, height), self.input_size, self.divisor, self.square)
        input_scale = lb.input_size / lb.scale  # extent, px of the original image
        results.update(
            img=resize_and_pad(results['img'], lb),
            img_shape=lb.input_size[::-1],
            input_size=lb.input_size,
            input_scale=input_scale,
            input_center=0.5 * input_scale - np.array(lb.pad[:2]) / lb.scale,
        )
        if 'keypoints' in results:
            prefix = '' if self.move_labels else 'transformed_'
            corners = results['bbox'].reshape(-1, 2, 2)
            results[f'{prefix}bbox'] = to_input(corners, lb).reshape(-1, 4)
            results[f'{prefix}keypoints'] = to_input(results['keypoints'], lb)
        return results
