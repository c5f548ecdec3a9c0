# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Decodes grids into objects and suppresses overlapping ones.

These are steps 1 and 2 of docs/method.md, Inference.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from .coder import decode_boxes, decode_keypoints, split_outputs


class Candidates(NamedTuple):
    """Decoded objects of a batch, in px of the network input.

    Attributes:
        image: Index of the image in the batch, (M,) int64.
        scores: Objectness times the best class, (M,).
        labels: Best class, (M,) int64: the category 0..C-1 of a pose object, or C + k for a
            keypoint object of type k.
        boxes: Boxes as xyxy, (M, 4).
        keypoints: Regressed keypoints, (M, K, 2).
    """

    image: Tensor
    scores: Tensor
    labels: Tensor
    boxes: Tensor
    keypoints: Tensor

    def take(self, index: Tensor) -> 'Candidates':
        """Returns the candidates that an index or a mask selects."""
        return Candidates(*(field[index] for field in self))


def concatenate(parts: Iterable[Candidates]) -> Candidates:
    """Concatenates the candidates of several levels or passes."""
    return Candidates(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def decode_candidates(
    grids: Sequence[Tensor],
    anchors: Sequence[Tensor],
    strides: Sequence[int],
    num_keypoints: int,
    score_thr: float,
) -> Candidates:
    """Decodes only the outputs whose score is above a threshold.

    Args:
        grids: Raw outputs of each level, (N, Na, H, W, 5 + C + 3K).
        anchors: Anchors of each level, (Na, 2) grid units.
        strides: Px per grid cell of each level.
        num_keypoints: K.
        score_thr: Threshold of the objectness and of the score.

    Returns:
        Candidates of the batch, level by level.
    """
    levels = zip(grids, anchors, strides, strict=True)
    return concatenate(_decode_level(*level, num_keypoints, score_thr) for level in levels)


def _decode_level(
    grid: Tensor, anchors: Tensor, stride: int, num_keypoints: int, score_thr: float
) -> Candidates:
    image, anchor, gy, gx = (grid[..., 4].float().sigmoid() > score_thr).nonzero(as_tuple=True)
    rows = grid[image, anchor, gy, gx].float()  # (m, 5 + C + 3K)
    found = split_outputs(rows, num_keypoints)
    best, labels = found.classes.max(1)
    scores = found.objectness[:, 0].sigmoid() * best.sigmoid()  # (m,)

    keep = scores > score_thr
    cell, anchor = torch.stack((gx, gy), 1)[keep], anchors[anchor[keep]]
    boxes = decode_boxes(found.box[keep], anchor)
    boxes[:, :2] += cell
    keypoints = decode_keypoints(found.keypoints[keep], anchor)
    return Candidates(
        image=image[keep],
        scores=scores[keep],
        labels=labels[keep],
        boxes=box_convert(boxes * stride, 'cxcywh', 'xyxy'),
        keypoints=(keypoints + cell[:, None]) * stride,
    )


def keep_objects(
    candidates: Candidates, num_images: int, test_cfg: Mapping, num_categories: int = 1
) -> tuple[Tensor, Tensor]:
    """Suppresses overlapping candidates of the same class.

    Pose objects and keypoint objects are suppressed separately, each with their own thresholds and
    limit. If :func:`one_serves_both` is true, a single suppression handles both, and they share one
    limit.

    Args:
        candidates: Candidates of the batch.
        num_images: N.
        test_cfg: ``pose_score_thr``, ``pose_iou_thr``, ``keypoint_score_thr``,
            ``keypoint_iou_thr``, ``max_candidates`` and ``max_objects``.
        num_categories: C. Pose objects of all categories share one limit.

    Returns:
        Indices of the kept pose objects (P,) and of the kept keypoint objects (Q,), int64. Both are
        sorted by image, and within an image by falling score.
    """
    scores, is_pose = candidates.scores, candidates.labels < num_categories
    limits = (num_images, test_cfg['max_candidates'], test_cfg['max_objects'])
    pose_thr, keypoint_thr = test_cfg['pose_score_thr'], test_cfg['keypoint_score_thr']
    pose_iou, keypoint_iou = test_cfg['pose_iou_thr'], test_cfg['keypoint_iou_thr']
    if one_serves_both(test_cfg):
        kept = suppress(candidates, scores > pose_thr, pose_iou, *limits)
        pose = is_pose[kept]
        return kept[pose], kept[~pose & (scores[kept] > keypoint_thr)]
    poses = suppress(candidates, is_pose & (scores > pose_thr), pose_iou, *limits)
    points = suppress(candidates, ~is_pose & (scores > keypoint_thr), keypoint_iou, *limits)
    return poses, points


def one_serves_both(test_cfg: Mapping) -> bool:
    """Returns whether a single suppression can handle pose objects and keypoint objects.

    It can if both have the same IoU threshold, and the score threshold of keypoint objects is not
    below that of pose objects.
    """
    same = test_cfg['pose_iou_thr'] == test_cfg['keypoint_iou_thr']
    return same and test_cfg['keypoint_score_thr'] >= test_cfg['pose_score_thr']


def suppress(
    candidates: Candidates,
    mask: Tensor,
    iou_thr: float,
    num_images: int,
    max_candidates: int,
    max_objects: int,
) -> Tensor:
    """Runs non-maximum suppression in each class of each image.

    Images are handled one by one, because a single call would compare the boxes of all images with
    each other.

    Args:
        candidates: Candidates of the batch.
        mask: Candidates that take part, (M,) bool.
        iou_thr: A box is dropped if its IoU with a box of higher score is above this.
        num_images: N.
        max_candidates: Number of candidates of an image that take part, those with the highest
            scores.
        max_objects: Number of objects of an image that are kept, those with the highest scores.

    Returns:
        Indices of the kept candidates, (m,) int64, sorted by image, and within an image by falling
        score.
    """
    index = mask.nonzero().squeeze(1)
    if not len(index):
        return index
    image = candidates.image[index]
    index = index[image.argsort(stable=True)]
    kept = []
    for rows in filter(len, index.split(image.bincount(minlength=num_images).tolist())):
        if len(rows) > max_candidates:
            rows = rows[candidates.scores[rows].topk(max_candidates).indices]
        # torchvision may shift classes apart, which needs coordinates of at least 0 and exact sums.
        boxes, scores = candidates.boxes[rows].double(), candidates.scores[rows].double()
        best = batched_nms(boxes - boxes.amin(), scores, candidates.labels[rows], iou_thr)
        kept.append(rows[best[:max_objects]])
    return torch.cat(kept)
