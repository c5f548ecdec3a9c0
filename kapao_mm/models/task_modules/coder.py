# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Grid outputs to boxes and keypoints (paper, equations of section 3.2).

Everything is in grid units of one level and relative to the corner of the output's cell: a location
in input px is (value + cell) x stride.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Outputs(NamedTuple):
    """The raw outputs of anchors, in their order in the grid.

    Attributes:
        box: t'x t'y t'w t'h, (..., 4).
        objectness: (..., 1).
        classes: pose objects of C categories, then K keypoint types, (..., C + K).
        keypoints: v'x v'y, (..., K, 2).
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
    """Decodes t'x t'y t'w t'h.

    Args:
        outputs: raw outputs, (..., 4).
        anchors: width and height of each output's anchor, (..., 2) grid units.

    Returns:
        Centre x, centre y, width, height, (..., 4) grid units from the cell's corner.
    """
    centre, size = (outputs.sigmoid() * 2).split(2, -1)
    return torch.cat((centre - 0.5, size.square() * anchors), -1)


def decode_keypoints(outputs: Tensor, anchors: Tensor) -> Tensor:
    """Decodes v'x v'y of every keypoint.

    Args:
        outputs: raw outputs, (..., K, 2).
        anchors: width and height of each output's anchor, (..., 2) grid units.

    Returns:
        Keypoints, (..., K, 2) grid units from the cell's corner.
    """
    return (outputs.sigmoid() * 4 - 2) * anchors[..., None, :]
