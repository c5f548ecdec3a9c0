# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Assigns objects to the grid cells and anchors that predict them (docs/method.md, Assignment)."""

from typing import NamedTuple

import torch
from mmpose.registry import TASK_UTILS
from torch import Tensor

from ..utils.device import constant
from .objects import Objects

# Own cell, then the left, upper, right and lower neighbor.
NEIGHBORS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))


class Matches(NamedTuple):
    """Matches of one level, in grid units relative to the corner of the matched grid cell.

    Attributes:
        image: Index of the image in the batch, (m,) int64.
        anchor: Index of the anchor in the level, (m,) int64.
        gy: Row of the grid cell, (m,) int64.
        gx: Column of the grid cell, (m,) int64.
        label: Class of the object, (m,) int64.
        boxes: Center x, center y, width and height, (m, 4).
        keypoints: Keypoints of the object, (m, K, 2).
        visible: Whether a keypoint is labeled and inside the network input, (m, K) bool.
    """

    image: Tensor
    anchor: Tensor
    gy: Tensor
    gx: Tensor
    label: Tensor
    boxes: Tensor
    keypoints: Tensor
    visible: Tensor


@TASK_UTILS.register_module()
class AnchorRatioAssigner:
    """Matches an object to the anchors of similar width and height, in up to three grid cells.

    Args:
        max_ratio: Limit of the ratio between a side of the object and that side of the anchor,
            whichever is longer. Larger ratios do not match.
    """

    def __init__(self, max_ratio: float) -> None:
        self.max_ratio = max_ratio

    def assign(
        self, objects: Objects, anchors: Tensor, stride: int, grid_hw: tuple[int, int]
    ) -> Matches:
        """Finds all matches of one level.

        Args:
            objects: Objects of the batch, in px of the network input.
            anchors: Anchors of the level, (Na, 2) grid units.
            stride: Px per grid cell.
            grid_hw: Rows and columns of the level's grid.

        Returns:
            The matches. An object may have several, and several objects may share a cell and an
            anchor.
        """
        boxes = objects.boxes / stride  # (n, 4)
        ratio = boxes[:, None, 2:] / anchors  # (n, Na, 2)
        similar = torch.maximum(ratio, 1 / ratio).amax(-1) < self.max_ratio  # (n, Na)
        index, anchor = similar.nonzero(as_tuple=True)  # (m,)

        center = boxes[index, :2]  # (m, 2)
        size = constant(tuple(grid_hw)[::-1], center)
        left_upper = (center % 1 < 0.5) & (center > 1)  # (m, 2): nearer to that neighbor
        from_end = size - center
        right_lower = (from_end % 1 < 0.5) & (from_end > 1)
        own = torch.ones_like(left_upper[:, :1])
        assigned = torch.cat((own, left_upper, right_lower), 1).T  # (5, m)
        neighbor, match = assigned.nonzero(as_tuple=True)  # (M,)

        index, anchor, center = index[match], anchor[match], center[match]
        # A point moved half a cell towards the neighbor lies inside the neighbor.
        shift = constant(NEIGHBORS, center)[neighbor] / 2
        cell = (center + shift).floor().clamp(min=center.new_zeros(2), max=size - 1)  # (M, 2)
        gx, gy = cell.long().T
        return Matches(
            image=objects.image[index],
            anchor=anchor,
            gy=gy,
            gx=gx,
            label=objects.label[index],
            boxes=torch.cat((center - cell, boxes[index, 2:]), 1),
            keypoints=objects.keypoints[index] / stride - cell[:, None],
            visible=objects.visible[index],
        )
