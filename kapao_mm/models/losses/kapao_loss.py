# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Computes KAPAO's loss of boxes, objectness, classes and keypoints (docs/method.md, Loss)."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, get_world_size
from mmpose.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..task_modules.assigner import Matches
from ..task_modules.coder import decode_boxes, decode_keypoints, split_outputs
from ..utils.device import constant
from .ciou import complete_iou


@MODELS.register_module()
class KAPAOLoss(nn.Module):
    """Loss of four terms, each summed over all levels and multiplied by the batch size.

    The means are taken over the matches of all processes together, so that N processes have the
    gradients of one large batch.

    Args:
        box_gain: Weight of 1 - CIoU.
        obj_gain: Weight of the objectness, for a network input of 640 px.
        cls_gain: Weight of the classes, for 80 classes.
        kpt_gain: Weight of the keypoint distance.
        obj_level_weights: Weight of the objectness of each level, finest level first.
        scale_gains: Whether to multiply ``obj_gain`` by (input size / 640)^2 and ``cls_gain`` by
            (number of classes / 80), as the published recipe does. With a small input and few
            classes both become so small that a short training learns little; False leaves them as
            they are.
    """

    def __init__(
        self,
        box_gain: float,
        obj_gain: float,
        cls_gain: float,
        kpt_gain: float,
        obj_level_weights: Sequence[float],
        scale_gains: bool = True,
    ) -> None:
        super().__init__()
        self.box_gain = box_gain
        self.obj_gain = obj_gain
        self.cls_gain = cls_gain
        self.kpt_gain = kpt_gain
        self.obj_level_weights = tuple(obj_level_weights)
        self.scale_gains = scale_gains

    def gains(self, num_classes: int, input_size: int) -> dict[str, float]:
        """Returns the gains of the four terms after scaling.

        All are multiplied by 3 / number of levels. ``scale_gains`` decides about the other factors.

        Args:
            num_classes: C + K.
            input_size: Longer side of the network input, px.
        """
        by_levels = 3 / len(self.obj_level_weights)  # the gains are meant for three levels
        by_input, by_classes = (input_size / 640) ** 2, num_classes / 80
        if not self.scale_gains:
            by_input = by_classes = 1
        return dict(
            box=self.box_gain * by_levels,
            obj=self.obj_gain * by_levels * by_input,
            cls=self.cls_gain * by_levels * by_classes,
            kpt=self.kpt_gain * by_levels,
        )

    def forward(
        self,
        grids: Sequence[Tensor],
        matches: Sequence[Matches],
        anchors: Sequence[Tensor],
        input_size: int,
    ) -> dict[str, Tensor]:
        """Computes the loss of a batch.

        Args:
            grids: Raw outputs of each level, (N, Na, 5 + C + 3K, H, W).
            matches: Matches of each level.
            anchors: Anchors of each level, (Na, 2) grid units.
            input_size: Longer side of the network input, px.

        Returns:
            ``loss_box``, ``loss_obj``, ``loss_cls`` and ``loss_kpt``, scalars; the loss is their
            sum.
        """
        sums, counts = zip(
            *(level_sums(*level) for level in zip(grids, matches, anchors, strict=True)),
            strict=True,
        )
        counts = constant(counts, sums[0])  # (L, 4)
        all_reduce(counts, 'mean')
        means = torch.stack(sums) / counts.clamp(min=1e-9)  # (L, 4)
        box, obj, cls, kpt = means.unbind(1)
        num_keypoints = matches[0].keypoints.shape[1]
        num_classes = grids[0].shape[2] - 5 - 2 * num_keypoints
        gains = self.gains(num_classes, input_size)
        # Images of the batch of all processes. Dividing by the mean count per process makes up for
        # the averaging of gradients over processes.
        images = len(grids[0]) * get_world_size()
        return dict(
            loss_box=box.sum() * gains['box'] * images,
            loss_obj=(obj * constant(self.obj_level_weights, obj)).sum() * gains['obj'] * images,
            loss_cls=cls.sum() * gains['cls'] * images,
            loss_kpt=kpt.sum() * gains['kpt'] * images,
        )


def level_sums(
    grid: Tensor, matches: Matches, anchors: Tensor
) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Computes the sums of the four terms of a level, and the counts to divide them by.

    Args:
        grid: Raw outputs of the level, (N, Na, 5 + C + 3K, H, W).
        matches: Matches of the level.
        anchors: Anchors of the level, (Na, 2) grid units.

    Returns:
        Sums (4,) float32 and counts, in the order box, objectness, class, keypoints.
    """
    index = (matches.image, matches.anchor, matches.gy, matches.gx)
    raw = grid[index[0], index[1], :, index[2], index[3]].float()  # (m, 5 + C + 3K)
    outputs = split_outputs(raw, matches.keypoints.shape[1])
    anchor = anchors[matches.anchor]  # (m, 2)

    ciou = complete_iou(decode_boxes(outputs.box, anchor), matches.boxes)

    logits = grid[:, :, 4].float()  # (N, Na, H, W)
    objectness = torch.zeros(logits.shape, dtype=ciou.dtype, device=grid.device)
    _, num_anchors, rows, columns = logits.shape
    cell = ((index[0] * num_anchors + index[1]) * rows + index[2]) * columns + index[3]  # (m,)
    # Where matches share a cell and anchor, the highest CIoU sets the target.
    objectness.view(-1).scatter_reduce_(0, cell, ciou.detach().clamp(min=0), 'amax')
    obj = binary_cross_entropy_with_logits(logits, objectness, reduction='sum')

    classes = outputs.classes  # (m, C + K)
    numbers = torch.arange(classes.shape[1], device=grid.device)
    one_hot = (matches.label[:, None] == numbers).to(classes)
    cls = binary_cross_entropy_with_logits(classes, one_hot, reduction='sum')

    pair = matches.visible.nonzero(as_tuple=True)  # (p,): labeled keypoints of pose objects
    keypoints = decode_keypoints(outputs.keypoints[pair][:, None], anchor[pair[0]])  # (p, 1, 2)
    gaps = keypoints[:, 0] - matches.keypoints[pair]
    kpt = torch.linalg.vector_norm(gaps, dim=1).sum()

    sums = torch.stack(((1 - ciou).sum(), obj, cls, kpt))
    return sums, (len(ciou), objectness.numel(), classes.numel(), len(gaps))
