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
from torchvision.ops import box_convert, nms

from kapao_mm.structures import InferenceSettings

from ..utils.training import is_compiling
from .coder import decode_boxes, decode_keypoints, split_outputs

ClassNMS = Callable[[Tensor, Tensor, Tensor, int, float, int], Tensor]


class Candidates(NamedTuple):
    """Decoded outputs of a batch, in px of the network input.

    An image with fewer candidates than another one has outputs below the score threshold among
    them, whose score is 0.

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
    score_thrs: tuple[float, float] | None,
) -> Candidates:
    """Decodes the outputs of a batch whose score is above a threshold.

    Args:
        grids: Raw outputs of each level, (N, Na, 5 + C + 3K, H, W).
        anchors: Anchors of each level, (Na, 2) grid units.
        strides: Px per grid cell of each level.
        num_keypoints: K.
        score_thrs: Thresholds of the scores of pose objects and of keypoint objects. None decodes
            all outputs.

    Returns:
        Candidates, level by level.
    """
    scores = [_scores(grid, num_keypoints, score_thrs) for grid in grids]
    if score_thrs is None:
        chosen = [(x, _range(x[0]).expand_as(x)) for x in scores]
    else:
        most = [(x > 0).sum(1).max().clamp(min=1) for x in scores]  # candidates of an image
        counts = _sizes(most, scores)
        chosen = [x.topk(count) for x, count in zip(scores, counts, strict=True)]
    levels = zip(grids, anchors, strides, chosen, strict=True)
    return concatenate(
        _decode_level(grid, level_anchors, stride, num_keypoints, *found)
        for grid, level_anchors, stride, found in levels
    )


def _scores(grid: Tensor, num_keypoints: int, thrs: tuple[float, float] | None) -> Tensor:
    """Returns the scores of all outputs of a level, (N, Na H W), 0 if not above a threshold."""
    classes = grid[:, :, 5 : -2 * num_keypoints]
    best = classes.amax(2)  # (N, Na, H, W)
    scores = grid[:, :, 4].float().sigmoid() * best.float().sigmoid()
    if thrs is not None:
        above = scores > thrs[0]
        if thrs[0] != thrs[1]:
            is_pose = classes[:, :, :-num_keypoints].amax(2) == best
            above = is_pose & above | ~is_pose & (scores > thrs[1])
        scores = scores * above
    return scores.flatten(1)


def _sizes(numbers: Sequence[Tensor], likes: Sequence[Tensor]) -> list[int]:
    """Returns numbers of a device as sizes, each at most the length of a row of ``likes``."""
    if not (torch.jit.is_tracing() or is_compiling()):
        return torch.stack(list(numbers)).tolist()  # a GPU waits once
    # Tracing records a size, but would freeze a number at its value in the example.
    pairs = zip(numbers, likes, strict=True)
    sizes = [(_range(like[0]) < number).nonzero().shape[0] for number, like in pairs]
    for size in [] if torch.jit.is_tracing() else sizes:
        torch._check(size < 2**31)  # else the sum over levels overflows in torch.export
    return sizes


def _range(like: Tensor) -> Tensor:
    """Returns the numbers from 0 on, as many as there are in ``like`` (A,)."""
    # A traced arange would be fixed to its device.
    return torch.ones_like(like, dtype=torch.long).cumsum(0) - 1


def _decode_level(
    grid: Tensor, anchors: Tensor, stride: int, num_keypoints: int, scores: Tensor, index: Tensor
) -> Candidates:
    """Decodes the outputs of a level with an index (N, k) into its anchors, rows and columns."""
    rows, columns = grid.shape[3:]
    row = index // columns
    anchor = row // rows
    y, x = row - anchor * rows, index - row * columns  # not %, which ONNX's export lacks here
    outputs = grid[_images(index), anchor, :, y, x].float()  # (N, k, 5 + C + 3K)
    found = split_outputs(outputs, num_keypoints)

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
    labels = candidates.labels.gather(1, order)
    bboxes = candidates.bboxes.gather(1, order[:, :, None].expand(-1, -1, 4))
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

    Args:
        bboxes: Boxes, (N, k, 4) xyxy.
        scores: Scores, (N, k), 0 for a box that does not take part. The others are in falling
            order.
        labels: Classes, (N, k) int64.
        num_classes: Number of classes.
        iou_thr: A box is dropped if its IoU with a box of higher score is above this.
        max_objects: Number of boxes of an image that are kept, those with the highest scores.

    Returns:
        Whether each box is kept, (N, k) bool.
    """
    if scores.device.type == 'cpu':
        return _suppress_alone(bboxes, scores, labels, iou_thr, max_objects)
    keep = _suppress_together(bboxes, scores, labels, num_classes, iou_thr)
    return keep & (keep.cumsum(1) <= max_objects)


def _suppress_alone(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_thr: float,
    max_objects: int,
    many: int = 1000,
) -> Tensor:
    """Does what :func:`class_nms` does, image by image, with few comparisons.

    Args:
        many: Number of boxes above which it is faster to compare those of each class alone.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(len(scores)):
        index = (scores[i] > 0).nonzero().squeeze(1)
        found, weights, classes = bboxes[i][index], scores[i][index].double(), labels[i][index]
        if len(index) > many:
            order, first = classes.argsort(stable=True), 0
            found, weights = found[order].double(), weights[order]
            counts: list[int] = classes.bincount().tolist()  # of each class
            parts: list[Tensor] = []
            for count in counts:
                last = first + count
                if count > 0:
                    parts.append(nms(found[first:last], weights[first:last], iou_thr) + first)
                first = last
            kept = order[torch.cat(parts)].sort()[0]
        elif len(index) > 0:
            kept = nms(_apart(found, classes), weights, iou_thr)
        else:
            kept = index
        keep[i].index_fill_(0, index[kept[:max_objects]], True)
    return keep


def _suppress_together(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    num_classes: int,
    iou_thr: float,
    max_compared: int = 20_000,
) -> Tensor:
    """Does what :func:`class_nms` does, but for the limit, with one wait for many images.

    On a GPU comparisons cost less than waiting for the number of boxes that take part.

    Args:
        max_compared: Number of boxes that are compared with each other in one call.
    """
    takes_part = scores > 0
    group = torch.where(takes_part, labels + _images(labels) * num_classes, -1)
    keep = torch.zeros_like(takes_part)
    step = max(1, max_compared // max(1, scores.shape[1]))  # images
    for first in range(0, len(scores), step):
        last = first + step
        boxes, groups = bboxes[first:last].flatten(0, 1), group[first:last].flatten()
        if len(groups) > 0:
            weights = scores[first:last].flatten().double()
            kept = nms(_apart(boxes, groups), weights, iou_thr)
            keep[first:last].view(-1).index_fill_(0, kept, True)
    return keep & takes_part


def _apart(bboxes: Tensor, groups: Tensor) -> Tensor:
    """Shifts boxes (n, 4) so that those of two groups (n,) do not overlap; sums are exact."""
    bboxes = bboxes.double()
    low, high = bboxes.aminmax()
    return (bboxes - low) + (groups * (high - low + 1))[:, None]


def _images(index: Tensor) -> Tensor:
    """Returns the numbers of the images of an index (N, k), (N, 1)."""
    return torch.ones_like(index[:, :1]).cumsum(0) - 1
