# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Decodes grids into candidates and suppresses overlapping ones, for prediction and export.

These are steps 1 and 2 of docs/method.md, Inference. No branch depends on the data, so that the
same code can be exported: all images of a batch have as many candidates as the image with the most,
and limits are computed by cumulative sums over sorted candidates.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from kapao_mm.structures import InferenceSettings

from .coder import decode_boxes, decode_keypoints, split_outputs

ClassNMS = Callable[[Tensor, Tensor, Tensor, int, float, int], Tensor]


class Candidates(NamedTuple):
    """Decoded outputs of a batch, in px of the network input.

    An image with fewer candidates than another one has outputs below the score threshold among
    them.

    Attributes:
        scores: Objectness times the probability of the best class, (N, k).
        labels: Best class, (N, k) int64: the category 0..C-1 of a pose object, or C + t for a
            keypoint object of type t.
        bboxes: Boxes, (N, k, 4) xyxy.
        keypoints: Regressed keypoints, (N, k, K, 2).
    """

    scores: Tensor
    labels: Tensor
    bboxes: Tensor
    keypoints: Tensor


def concatenate(parts: Iterable[Candidates]) -> Candidates:
    """Concatenates the candidates of several levels or passes."""
    return Candidates(*(torch.cat(fields, 1) for fields in zip(*parts, strict=True)))


def decode(
    grids: Sequence[Tensor],
    anchors: Sequence[Tensor],
    strides: Sequence[int],
    num_keypoints: int,
    score_thr: float | None,
) -> Candidates:
    """Decodes the outputs of a batch whose score is above a threshold.

    Args:
        grids: Raw outputs of each level, (N, Na, 5 + C + 3K, H, W).
        anchors: Anchors of each level, (Na, 2) grid units.
        strides: Px per grid cell of each level.
        num_keypoints: K.
        score_thr: Threshold of the score. None decodes all outputs.

    Returns:
        Candidates, level by level.
    """
    levels = zip(grids, anchors, strides, strict=True)
    return concatenate(_decode_level(*level, num_keypoints, score_thr) for level in levels)


def _decode_level(
    grid: Tensor, anchors: Tensor, stride: int, num_keypoints: int, score_thr: float | None
) -> Candidates:
    classes = grid[:, :, 5 : -2 * num_keypoints]
    scores = grid[:, :, 4].float().sigmoid() * classes.amax(2).float().sigmoid()  # (N, Na, H, W)
    # A traced arange would be fixed to its device, so that indices are sums of ones.
    ones = torch.ones_like(scores[0], dtype=torch.long)  # (Na, H, W)
    scores = scores.flatten(1)
    if score_thr is None:
        index = (ones.flatten().cumsum(0) - 1).expand(scores.shape[0], -1)
    else:
        most = (scores > score_thr).sum(1).max().clamp(min=1)  # candidates of an image
        # Tracing records a size, but would freeze a number at its value in the example.
        count = (ones.flatten().cumsum(0) <= most).nonzero().shape[0]
        if not torch.jit.is_tracing():
            torch._check(count < 2**31)  # else the sum over levels overflows in torch.export
        scores, index = scores.topk(count)  # (N, k)
    anchor, y, x = (ones.cumsum(dim).flatten()[index] - 1 for dim in range(3))
    rows = grid[_images(index), anchor, :, y, x].float()  # (N, k, 5 + C + 3K)
    found = split_outputs(rows, num_keypoints)

    corner = torch.stack((x, y), -1)  # (N, k, 2) grid units
    center, size = decode_boxes(found.box, anchors[anchor]).split(2, -1)
    keypoints = decode_keypoints(found.keypoints, anchors[anchor]) + corner[:, :, None]
    bboxes = box_convert(torch.cat((center + corner, size), -1) * stride, 'cxcywh', 'xyxy')
    return Candidates(scores, found.classes.argmax(-1), bboxes, keypoints * stride)


def detect(
    candidates: Candidates,
    settings: InferenceSettings,
    num_categories: int,
    nms: ClassNMS,
    num_candidates: int | None = None,
) -> tuple[Tensor, ...]:
    """Suppresses overlapping candidates of the same class.

    Pose objects and keypoint objects are suppressed separately, each with their own thresholds and
    limit. If ``settings.shares_one_nms``, a single suppression handles both, and they share one
    limit.

    Args:
        candidates: Candidates of the batch.
        settings: Thresholds and limits.
        num_categories: C. Pose objects of all categories share one limit.
        nms: :func:`class_nms`, or the same as an operator that can be exported.
        num_candidates: Number of candidates of each image that take part, those with the highest
            scores. None takes all.

    Returns:
        The kept objects of the batch, see :data:`OUTPUT_NAMES`. They are sorted by image, and
        within an image by falling score.
    """
    if num_candidates is None:
        scores, order = candidates.scores.sort(1, descending=True)  # (N, k)
    else:
        scores, order = candidates.scores.topk(num_candidates)
    image = _images(order)
    labels, bboxes = candidates.labels[image, order], candidates.bboxes[image, order]
    num_classes = num_categories + candidates.keypoints.shape[2]
    is_pose = labels < num_categories
    above_pose = scores > settings.pose_score_thr
    above_keypoint = scores > settings.keypoint_score_thr

    def suppress(mask: Tensor, iou_thr: float) -> Tensor:
        mask = mask & (mask.cumsum(1) <= settings.max_candidates)
        limits = (num_classes, iou_thr, settings.max_objects)
        return nms(bboxes, scores * mask, labels, *limits)  # (N, k)

    if settings.shares_one_nms:
        kept = suppress(above_pose, settings.pose_iou_thr)
        poses, keypoints = kept & is_pose, kept & ~is_pose & above_keypoint
    else:
        poses = suppress(is_pose & above_pose, settings.pose_iou_thr)
        keypoints = suppress(~is_pose & above_keypoint, settings.keypoint_iou_thr)
    pose, keypoint = poses.nonzero(as_tuple=True), keypoints.nonzero(as_tuple=True)
    regressed = candidates.keypoints[pose[0], order[pose]]  # (P, K, 2)
    return (
        *(pose[0], bboxes[pose], scores[pose], labels[pose], regressed),
        *(keypoint[0], bboxes[keypoint], scores[keypoint], labels[keypoint] - num_categories),
    )


def class_nms(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    num_classes: int,
    iou_thr: float,
    max_objects: int,
) -> Tensor:
    """Runs non-maximum suppression in each class of each image.

    Images are handled one by one, because a single call would compare the boxes of all images with
    each other.

    Args:
        bboxes: Boxes, (N, k, 4) xyxy.
        scores: Scores, (N, k), 0 for a box that does not take part.
        labels: Classes, (N, k) int64.
        num_classes: Number of classes. Only the operator of exported files needs it.
        iou_thr: A box is dropped if its IoU with a box of higher score is above this.
        max_objects: Number of boxes of an image that are kept, those with the highest scores.

    Returns:
        Whether each box is kept, (N, k) bool.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(len(bboxes)):
        index = (scores[i] > 0).nonzero().squeeze(1)
        if len(index) > 0:
            # torchvision may shift classes apart, which needs coordinates from 0 and exact sums.
            found = bboxes[i, index].double()
            found = found - found.min()
            kept = batched_nms(found, scores[i, index].double(), labels[i, index], iou_thr)
            keep[i, index[kept[:max_objects]]] = True
    return keep


def _images(index: Tensor) -> Tensor:
    """Returns the numbers of the images of an index (N, k), (N, 1)."""
    return torch.ones_like(index[:, :1]).cumsum(0) - 1
