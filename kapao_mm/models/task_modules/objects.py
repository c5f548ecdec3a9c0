# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Ground-truth people as KAPAO's objects (paper, section 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Objects(NamedTuple):
    """Pose objects and keypoint objects of a batch, input px.

    Attributes:
        image: index of the image in the batch, (n,) int64.
        label: the category 0..C-1 for a pose object, C + k for a keypoint object of type k,
            (n,) int64.
        boxes: centre x, centre y, width, height, (n, 4).
        keypoints: (n, K, 2), K counting the types of all categories; zeros for keypoint objects.
        visible: whether a keypoint is labelled and inside the input, (n, K) bool; False for
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
    """Makes a pose object of every person and a keypoint object of every keypoint seen.

    A "person" may be of any category: an animal, a wheel.

    A person without labelled keypoints is a pose object too. The square box of a keypoint object
    stays centred on its keypoint, also at the border of the input.

    Args:
        bboxes: an image's person boxes, (n_i, 4) xyxy input px, for each image of the batch.
        keypoints: (n_i, K, 2) input px, for each image.
        keypoints_visible: (n_i, K), above 0 where labelled, for each image. Types of other
            categories than a person's own are not labelled.
        categories: 0..C-1, (n_i,) int64, for each image.
        num_categories: C.
        keypoint_sizes: side of a keypoint object's box by type, (K,) input px.
        input_hw: height and width of the network input, px.

    Returns:
        The pose objects of the batch, then its keypoint objects.
    """
    counts = torch.tensor([len(b) for b in bboxes], device=keypoint_sizes.device)
    image = torch.repeat_interleave(torch.arange(len(bboxes), device=counts.device), counts)
    corners = torch.cat(list(bboxes))  # (n, 4)
    pose_keypoints = torch.cat(list(keypoints))  # (n, K, 2)
    limit = pose_keypoints.new_tensor(input_hw).flip(0)
    inside = ((pose_keypoints >= 0) & (pose_keypoints <= limit)).all(-1)
    visible = (torch.cat(list(keypoints_visible)) > 0) & inside  # (n, K)
    boxes = torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1)

    person, kind = visible.nonzero(as_tuple=True)  # (m,)
    sides = keypoint_sizes[kind, None].expand(-1, 2)
    squares = torch.cat((pose_keypoints[person, kind], sides), 1)  # (m, 4)
    return Objects(
        image=torch.cat((image, image[person])),
        label=torch.cat((*categories, num_categories + kind)),
        boxes=torch.cat((boxes, squares)),
        keypoints=torch.cat((pose_keypoints, torch.zeros_like(pose_keypoints[person]))),
        visible=torch.cat((visible, torch.zeros_like(visible[person]))),
    )
