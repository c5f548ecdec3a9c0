# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Computes the kept objects of images in a single graph that can be exported.

These are steps 1 and 2 of docs/method.md, Inference.

The graph computes the same as :meth:`KAPAOHead.candidates` and :meth:`KAPAOHead.detect`, but
without branches that depend on the data. All images get as many candidates as the image with the
most. They are sorted by score, so that limits can be computed by cumulative sums, and the kept
objects are sorted too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from mmpose.models import PoseDataPreprocessor
from torch import Tensor, nn
from torchvision.ops import box_convert, nms

from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.task_modules.candidates import one_serves_both
from kapao_mm.models.task_modules.coder import decode_boxes, decode_keypoints, split_outputs


class KeptObjects(NamedTuple):
    """Kept objects of all images of a batch, in px of the network input.

    They are sorted by image, and within an image by falling score.

    Attributes:
        pose_image: Index of the pose object's image in the batch, (P,) int64.
        boxes: Boxes of the pose objects, (P, 4) xyxy.
        scores: Scores of the pose objects, (P,).
        categories: Categories 0..C-1 of the pose objects, (P,) int64.
        keypoints: Keypoints regressed by the pose objects, (P, K, 2).
        point_image: Index of the keypoint object's image in the batch, (Q,) int64.
        point_boxes: Boxes of the keypoint objects, (Q, 4) xyxy.
        point_scores: Scores of the keypoint objects, (Q,).
        point_types: Keypoint types 0..K-1 of the keypoint objects, (Q,) int64.
    """

    pose_image: Tensor
    boxes: Tensor
    scores: Tensor
    categories: Tensor
    keypoints: Tensor
    point_image: Tensor
    point_boxes: Tensor
    point_scores: Tensor
    point_types: Tensor


def class_nms(boxes: Tensor, scores: Tensor, iou_thr: float, max_objects: int) -> Tensor:
    """Runs non-maximum suppression in each class of each image.

    TorchScript compiles this function. For torch.export it is the operator :data:`CLASS_NMS`.

    Args:
        boxes: Boxes, (N, k, 4) xyxy.
        scores: Scores of each box for each class, (N, L, k), 0 for a box that does not take part.
        iou_thr: A box is dropped if its IoU with a box of higher score is above this.
        max_objects: Number of objects of an image that are kept, those with the highest scores.

    Returns:
        Whether each box is kept, (N, k) bool.
    """
    best, labels = scores.max(1)
    keep = torch.zeros_like(best, dtype=torch.bool)
    for i in range(len(boxes)):
        index = (best[i] > 0).nonzero().squeeze(1)
        if len(index) > 0:
            found = boxes[i, index].double()  # float32 would round the shifted boxes
            reach = found.max() - found.min() + 1
            shifted = found + (labels[i, index] * reach)[:, None]  # separates the classes
            kept = nms(shifted, best[i, index].double(), iou_thr)[:max_objects]
            keep[i, index[kept]] = True
    return keep


CLASS_NMS = torch.library.custom_op('kapao::class_nms', class_nms, mutates_args=())


@CLASS_NMS.register_fake
def _(boxes: Tensor, scores: Tensor, iou_thr: float, max_objects: int) -> Tensor:
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


class ExportGraph(nn.Module):
    """Normalization, network, decoding, score thresholds and suppression in one module.

    Args:
        model: Model with its final weights.
        settings: Thresholds and limits, see :func:`keep_objects`.
        nms: :func:`class_nms`, compiled or as an operator.
        num_candidates: Number of candidates of each image, those with the highest scores. None
            takes all above the thresholds.
    """

    def __init__(
        self,
        model: KAPAO,
        settings: Mapping[str, float],
        nms: Callable[[Tensor, Tensor, float, int], Tensor] = CLASS_NMS,
        num_candidates: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.nms = nms
        self.num_candidates = num_candidates
        num_classes = model.head.num_categories + model.head.num_keypoints
        self.register_buffer('classes', torch.arange(num_classes), persistent=False)

    def forward(self, images: Tensor) -> KeptObjects:
        """Detects the objects of a batch.

        Args:
            images: Network inputs, BGR (N, H, W, 3) uint8. H and W are multiples of the coarsest
                stride.
        """
        head = self.model.head
        grids = head(self.model.extract_feat(normalise(images, self.model.data_preprocessor)))
        outputs = torch.cat([grid.permute(0, 4, 1, 2, 3).flatten(2) for grid in grids], 2)
        index, scores = self._candidates(outputs)  # (N, k)
        rows = outputs.gather(2, index[:, None].expand(-1, outputs.shape[1], -1)).transpose(1, 2)
        found = split_outputs(rows, head.num_keypoints)
        places = output_places(grids, head.anchors, head.strides)[index]
        cell, anchors, stride = places.split((2, 2, 1), -1)  # (N, k, ...)

        labels = found.classes.argmax(-1)
        centre, size = decode_boxes(found.box, anchors).split(2, -1)
        boxes = box_convert(torch.cat((centre + cell, size), -1) * stride, 'cxcywh', 'xyxy')
        poses, points = self._keep(boxes, scores, labels)
        pose, point = poses.nonzero(as_tuple=True), points.nonzero(as_tuple=True)
        keypoints = decode_keypoints(found.keypoints[pose], anchors[pose]) + cell[pose][:, None]
        return KeptObjects(
            pose_image=pose[0],
            boxes=boxes[pose],
            scores=scores[pose],
            categories=labels[pose],
            keypoints=keypoints * stride[pose][:, None],
            point_image=point[0],
            point_boxes=boxes[point],
            point_scores=scores[point],
            point_types=labels[point] - head.num_categories,
        )

    def _candidates(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the outputs with the highest scores in each image.

        Args:
            outputs: Raw outputs of all levels, (N, 5 + C + 3K, A).

        Returns:
            Indices of these outputs among the A, and their scores, falling, both (N, k). Some may
            be below the thresholds, in an image with fewer candidates than another.
        """
        classes = outputs[:, 5 : -2 * self.model.head.num_keypoints]
        scores = outputs[:, 4].sigmoid() * classes.amax(1).sigmoid()  # (N, A)
        count = self.num_candidates
        if count is None:
            score_thr = min(self.settings['pose_score_thr'], self.settings['keypoint_score_thr'])
            most = (scores > score_thr).sum(1).max().clamp(min=1)
            # Tracing records a size, but would freeze a number at its value in the example.
            count = (torch.ones_like(scores[0]).cumsum(0) <= most).nonzero().shape[0]
        scores, index = scores.topk(count)
        return index, scores

    def _keep(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which candidates are kept as pose objects and as keypoint objects.

        The result is the same as that of :func:`keep_objects`.

        Returns:
            Two masks, (N, k) bool.
        """
        settings, first_type = self.settings, self.model.head.num_categories
        pose_thr, keypoint_thr = settings['pose_score_thr'], settings['keypoint_score_thr']
        pose_iou, keypoint_iou = settings['pose_iou_thr'], settings['keypoint_iou_thr']
        classes = self.classes
        if one_serves_both(settings):
            kept = self._suppress(boxes, scores, labels, classes, pose_thr, pose_iou)
            is_pose = labels < first_type
            return kept & is_pose, kept & ~is_pose & (scores > keypoint_thr)
        poses, points = classes[:first_type], classes[first_type:]
        return (
            self._suppress(boxes, scores, labels, poses, pose_thr, pose_iou),
            self._suppress(boxes, scores, labels, points, keypoint_thr, keypoint_iou),
        )

    def _suppress(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        classes: Tensor,
        score_thr: float,
        iou_thr: float,
    ) -> Tensor:
        """Suppresses overlapping candidates of some classes (L,).

        Returns:
            Whether each candidate is kept, (N, k) bool.
        """
        own = (labels[:, None] == classes[:, None]) & (scores > score_thr)[:, None]  # (N, L, k)
        among = own.any(1, keepdim=True).cumsum(2) <= self.settings['max_candidates']
        scores = scores[:, None] * (own & among)
        return self.nms(boxes, scores, iou_thr, self.settings['max_objects'])


def normalise(images: Tensor, preprocessor: PoseDataPreprocessor) -> Tensor:
    """Converts images (N, H, W, 3) uint8 to inputs (N, 3, H, W) as the preprocessor does."""
    inputs = images.permute(0, 3, 1, 2)
    if preprocessor._channel_conversion:
        inputs = inputs.flip(1)
    return (inputs.float() - preprocessor.mean) / preprocessor.std


def output_places(
    grids: Sequence[Tensor], anchors: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Returns the position and the anchor of each output, for all levels one after the other.

    Args:
        grids: Raw outputs of each level, (N, Na, H, W, ...).
        anchors: Anchors of each level, (Na, 2) grid units.
        strides: Px per grid cell of each level.

    Returns:
        Column and row of the grid cell, width and height of the anchor (grid units), and stride,
        (A, 5).
    """
    levels = []
    for grid, sides, stride in zip(grids, anchors, strides, strict=True):
        ones = torch.ones_like(grid[..., 0][0])  # a traced arange would be fixed to its device
        x, y = ones.cumsum(2) - 1, ones.cumsum(1) - 1
        width, height = (ones * side[:, None, None] for side in sides.unbind(1))  # (Na, H, W)
        levels.append(torch.stack((x, y, width, height, ones * stride), -1).flatten(0, 2))
    return torch.cat(levels)
