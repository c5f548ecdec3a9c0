# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Turns annotated people into pose objects and keypoint objects (docs/method.md, Objects)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.device import constant


class Objects(NamedTuple):
    """Pose objects and keypoint objects of a batch, in px of the network input.

    Attributes:
        image: Index of the image in the batch, (n,) int64.
        label: Class, (n,) int64: the category 0..C-1 of a pose object, or C + k for a keypoint
            object of type k.
        boxes: Center x, center y, width and height, (n, 4).
        keypoints: Keypoints of a pose object, (n, K, 2), where K counts the types of all
            categories. Zeros for keypoint objects.
        visible: Whether a keypoint is labeled and inside the network input, (n, K) bool. False for
            keypoint objects.
    """

    image: Tensor
    label: Tensor
    boxes: Tensor
    keypoints: Tensor
    visible: Tensor


def make_objects(
    bboxes: Sequence[Tensor],
    keypoints: Sequence[Tensor],
    keypoints_visible: Sequence[Tensor],
    categories: Sequence[Tensor],
    num_categories: int,
    keypoint_sizes: Tensor,
    input_hw: tuple[int, int],
) -> Objects:
    """Makes a pose object of each person, and a keypoint object of each labeled keypoint inside.

    A "person" may be of any category, such as an animal or a wheel. A person without labeled
    keypoints is a pose object too. The square box of a keypoint object stays centered on its
    keypoint, also at the border of the network input. Keypoints outside the network input count as
    unlabeled.

    Args:
        bboxes: Boxes of the people of each image of the batch, (n_i, 4) xyxy px of the network
            input.
        keypoints: Keypoints of the people of each image, (n_i, K, 2) px of the network input.
        keypoints_visible: Visibilities of each image, (n_i, K), above 0 for labeled keypoints. The
            types of other categories than that of the person must be unlabeled.
        categories: Categories 0..C-1 of the people of each image, (n_i,) int64.
        num_categories: C.
        keypoint_sizes: Side of a keypoint object's box for each type, (K,) px of the network input.
        input_hw: Height and width of the network input, px.

    Returns:
        The pose objects of the batch, then its keypoint objects.
    """
    corners = torch.cat(list(bboxes))  # (n, 4)
    counts = torch.tensor([len(b) for b in bboxes])
    image = torch.arange(len(bboxes)).repeat_interleave(counts, output_size=len(corners))
    image = image.to(corners.device, non_blocking=True)
    pose_keypoints = torch.cat(list(keypoints))  # (n, K, 2)
    limit = constant(input_hw[::-1], pose_keypoints)
    inside = ((pose_keypoints >= 0) & (pose_keypoints <= limit)).all(-1)
    visible = (torch.cat(list(keypoints_visible)) > 0) & inside  # (n, K)
    boxes = torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1)

    person, keypoint_type = visible.nonzero(as_tuple=True)  # (m,)
    sides = keypoint_sizes[keypoint_type, None].expand(-1, 2)
    squares = torch.cat((pose_keypoints[person, keypoint_type], sides), 1)  # (m, 4)
    return Objects(
        image=torch.cat((image, image[person])),
        label=torch.cat((*categories, num_categories + keypoint_type)),
        boxes=torch.cat((boxes, squares)),
        keypoints=torch.cat((pose_keypoints, torch.zeros_like(pose_keypoints[person]))),
        visible=torch.cat((visible, torch.zeros_like(visible[person]))),
    )
