# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Decodes grids into pose objects and keypoint objects and suppresses overlapping ones.

These are steps 1 and 2 of docs/method.md, Inference.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from .coder import decode_boxes, decode_keypoints, split_outputs


class Candidates(NamedTuple):
    """Decoded objects of a batch, input px.

    Attributes:
        image: index of the image in the batch, (M,) int64.
        scores: objectness x best class, (M,).
        labels: best class, the category 0..C-1 for a pose object, C + k for keypoint type k,
            (M,) int64.
        boxes: xyxy, (M, 4).
        keypoints: (M, K, 2).
    """

    image: Tensor
    scores: Tensor
    labels: Tensor
    boxes: Tensor
    keypoints: Tensor

    def take(self, index: Tensor) -> 'Candidates':
        """The candidates of an index or mask."""
        return Candidates(*(field[index] for field in self))


def concatenate(parts: Iterable[Candidates]) -> Candidates:
    """The candidates of several levels or passes, one after the other."""
    return Candidates(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def decode_candidates(
    grids: Sequence[Tensor],
    anchors: Sequence[Tensor],
    strides: Sequence[int],
    num_keypoints: int,
    score_thr: float,
) -> Candidates:
    """Decodes the outputs whose confidence exceeds a threshold, and no others.

    Args:
        grids: raw outputs of each level, (N, Na, H, W, 5 + C + 3K).
        anchors: the anchors of each level, (Na, 2) grid units.
        strides: px a cell of each level.
        num_keypoints: K.
        score_thr: threshold of the objectness and of the confidence.

    Returns:
        The candidates of the batch, levels one after the other.
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
    """Suppresses duplicates, class by class, in two calls or one.

    Pose objects and keypoint objects have their own thresholds and limits. Where
    :func:`one_serves_both`, they share the limit of one call.

    Args:
        candidates: the candidates of the batch.
        num_images: N.
        test_cfg: ``pose_score_thr``, ``pose_iou_thr``, ``keypoint_score_thr``,
            ``keypoint_iou_thr``, ``max_candidates`` and ``max_objects``.
        num_categories: C; pose objects of all categories share their limit.

    Returns:
        Indices of the pose objects (P,) and keypoint objects (Q,) that are kept, int64; both image
        by image, and in an image by falling confidence.
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
    """Returns whether one suppression serves pose objects and keypoint objects.

    It does when their IoU thresholds are equal, and that of the keypoint objects' confidence is not
    below that of the pose objects'.
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
    """Non-maximum suppression inside each class of each image.

    Images take turns: all in one call would compare every box with those of all images.

    Args:
        candidates: the candidates of the batch.
        mask: the candidates that take part, (M,) bool.
        iou_thr: a box that overlaps a more confident one by more is dropped.
        num_images: N.
        max_candidates: the most confident ones of an image that go in.
        max_objects: the most confident ones of an image that come out.

    Returns:
        Indices of the kept candidates, image by image, by falling confidence, (m,) int64.
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
        # torchvision may shift classes apart: that takes boxes of no less than 0, and exact sums.
        boxes, scores = candidates.boxes[rows].double(), candidates.scores[rows].double()
        best = batched_nms(boxes - boxes.amin(), scores, candidates.labels[rows], iou_thr)
        kept.append(rows[best[:max_objects]])
    return torch.cat(kept)
