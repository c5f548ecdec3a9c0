# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Resizing and padding of one image to the network input."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import INPUT_DIVISOR, letterbox, resize_and_pad, to_input


@TRANSFORMS.register_module()
class Letterbox(BaseTransform):
    """Fits the image into the network input (:mod:`kapao_mm.functional.letterbox`).

    MMPose's BottomupResize pads to the full square and resizes by another rule.

    Reads ``img`` and, if ``move_labels``, ``bbox`` (n, 4) and ``keypoints`` (n, K, 2). Writes
    them in input px, ``img_shape`` (h, w), and ``input_size`` (w, h), ``input_scale`` (2,),
    ``input_center`` (2,) such that MMPose's ``x / input_size * input_scale + input_center -
    0.5 * input_scale`` maps input px back to original-image px.

    Args:
        input_size: Long side of the network input, px.
        square: Pad to a square instead of the next multiple of ``divisor``.
        divisor: Both sides of the input are multiples of it.
        move_labels: Move boxes and keypoints too (training). In tests the ground truth stays in
            original-image px, where MMPose's visualizer draws it, and the moved labels are
            ``transformed_bbox`` and ``transformed_keypoints``.
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
        """Resizes and pads ``results['img']``, see the class."""
        height, width = results['img'].shape[:2]
        lb = letterbox((width, height), self.input_size, self.divisor, self.square)
        input_scale = lb.input_size / lb.scale  # the input's extent, original px
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
