# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Decodes grid outputs into boxes and keypoints (docs/method.md, Decoding).

All lengths are grid units of one level, relative to the corner of the output's grid cell. A
position in px of the network input is (value + cell) x stride.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Outputs(NamedTuple):
    """Raw outputs of anchors, in their order in the grid.

    Attributes:
        box: Outputs t_x, t_y, t_w, t_h, (..., 4).
        objectness: Objectness, (..., 1).
        classes: The C categories of pose objects, then the K keypoint types, (..., C + K).
        keypoints: Outputs v_x, v_y of each keypoint, (..., K, 2).
    """

    box: Tensor
    objectness: Tensor
    classes: Tensor
    keypoints: Tensor


def split_outputs(outputs: Tensor, num_keypoints: int) -> Outputs:
    """Splits the outputs of anchors (..., 5 + C + 3K) into their parts."""
    num_classes = outputs.shape[-1] - 5 - 2 * num_keypoints
    parts = outputs.split((4, 1, num_classes, 2 * num_keypoints), -1)
    return Outputs(*parts[:3], parts[3].unflatten(-1, (-1, 2)))


def decode_boxes(outputs: Tensor, anchors: Tensor) -> Tensor:
    """Decodes the box of an object.

    With the outputs t and an anchor of A_w x A_h::

        x = 2 sigmoid(t_x) - 0.5        y = 2 sigmoid(t_y) - 0.5
        w = (2 sigmoid(t_w))^2 A_w      h = (2 sigmoid(t_h))^2 A_h

    Args:
        outputs: Raw outputs t_x, t_y, t_w, t_h, (..., 4).
        anchors: Width and height of the anchor of each output, (..., 2) grid units.

    Returns:
        Center x, center y, width and height, (..., 4) grid units from the corner of the cell.
    """
    center, size = (outputs.sigmoid() * 2).split(2, -1)
    return torch.cat((center - 0.5, size.square() * anchors), -1)


def decode_keypoints(outputs: Tensor, anchors: Tensor) -> Tensor:
    """Decodes the keypoints of a pose object.

    With the outputs v of a keypoint and an anchor of A_w x A_h::

        x = (4 sigmoid(v_x) - 2) A_w    y = (4 sigmoid(v_y) - 2) A_h

    Args:
        outputs: Raw outputs v_x, v_y of each keypoint, (..., K, 2).
        anchors: Width and height of the anchor of each output, (..., 2) grid units.

    Returns:
        Keypoints, (..., K, 2) grid units from the corner of the cell.
    """
    return (outputs.sigmoid() * 4 - 2) * anchors[..., None, :]
