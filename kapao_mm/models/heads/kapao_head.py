# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""KAPAO's head: four grids, their loss and the objects they predict."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseModule
from mmpose.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from kapao_mm.errors import InputError
from kapao_mm.functional.prediction import DetectedObjects

from ..task_modules.candidates import Candidates, decode_candidates, keep_objects
from ..task_modules.objects import make_objects


@MODELS.register_module()
class KAPAOHeadModule(BaseModule):
    """One 1x1 convolution a level; the part of the head that gets exported.

    Args:
        num_keypoints: K.
        num_categories: C.
        in_channels: widths of the neck's levels, finest first.
        strides: px a cell of each level.
        num_anchors: anchors a level, Na.
    """

    def __init__(
        self,
        num_keypoints: int,
        num_categories: int,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_anchors: int,
    ) -> None:
        super().__init__()
        self.num_classes = num_categories + num_keypoints
        self.strides = tuple(strides)
        self.num_anchors = num_anchors
        num_outputs = 5 + self.num_classes + 2 * num_keypoints
        self.convs = nn.ModuleList(
            nn.Conv2d(width, num_anchors * num_outputs, 1) for width in in_channels
        )

    def init_weights(self) -> None:
        """Raises the biases to the expected rates of objects (docs/method.md, Network)."""
        super().init_weights()
        for conv, stride in zip(self.convs, self.strides, strict=True):
            bias = conv.bias.detach().view(self.num_anchors, -1)  # (Na, No)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)  # 8 objects in an image of 640 px
            bias[:, 5 : 5 + self.num_classes] += math.log(0.6 / (self.num_classes - 0.99))

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Predicts the grids.

        Args:
            feats: the neck's levels, (N, C_l, H_l, W_l).

        Returns:
            Raw outputs of each level, (N, Na, H_l, W_l, 5 + C + 3K), in the order of the spec: box,
            objectness, classes, keypoints, see :class:`Outputs`.
        """
        return [
            conv(feat).unflatten(1, (self.num_anchors, -1)).permute(0, 1, 3, 4, 2)
            for conv, feat in zip(self.convs, feats, strict=True)
        ]


@MODELS.register_module()
class KAPAOHead(BaseModule):
    """Loss and prediction on the grids.

    Objects may be of several categories, each with keypoint types of its own. The classes are the C
    categories, then all K keypoint types; with one category that is the paper's model.

    Args:
        num_keypoints: the keypoint types of the dataset; a number, or one for each category.
        in_channels: widths of the neck's levels, finest first.
        strides: px a cell of each level.
        anchors: widths and heights of each level's anchors, px.
        keypoint_size: side of a keypoint object's box, in parts of the longer side of the input;
            one number, or one for each keypoint type.
        assigner: config of the assigner.
        loss: config of the loss.

    Attributes:
        keypoint_counts: the keypoint types of each category, C numbers.
        num_keypoints: K, all of them.
        num_categories: C.

    Raises:
        InputError: ``keypoint_size`` has neither one value nor K, or one that is not above 0.
    """

    def __init__(
        self,
        num_keypoints: int | Sequence[int],
        in_channels: Sequence[int],
        strides: Sequence[int],
        anchors: Sequence[Sequence[tuple[float, float]]],
        keypoint_size: float | Sequence[float],
        assigner: dict,
        loss: dict,
    ) -> None:
        super().__init__()
        counts = (num_keypoints,) if isinstance(num_keypoints, int) else tuple(num_keypoints)
        self.keypoint_counts = counts
        self.num_keypoints, self.num_categories = sum(counts), len(counts)
        sizes = torch.as_tensor(keypoint_size, dtype=torch.float)
        if sizes.numel() not in (1, self.num_keypoints):
            raise InputError(
                f'model.head.keypoint_size has {sizes.numel()} values; give one number, or one for '
                f'each of the {self.num_keypoints} keypoint types'
            )
        if np.min(keypoint_size) <= 0:
            raise InputError(
                f'model.head.keypoint_size is {keypoint_size}; give parts of the input above 0'
            )
        self.strides = tuple(strides)
        self.head_module = KAPAOHeadModule(
            self.num_keypoints, self.num_categories, in_channels, strides, len(anchors[0])
        )
        self.assigner = TASK_UTILS.build(assigner)
        self.loss_module = MODELS.build(loss)
        grid_anchors = torch.tensor(anchors) / torch.tensor(strides)[:, None, None]
        self.register_buffer('anchors', grid_anchors, persistent=False)  # (L, Na, 2) grid units
        sizes = sizes.expand(self.num_keypoints).clone()  # (K,)
        self.register_buffer('keypoint_sizes', sizes, persistent=False)

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """The grids, see :meth:`KAPAOHeadModule.forward`."""
        return self.head_module(feats)

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: list, train_cfg: dict | None = None
    ) -> dict[str, Tensor]:
        """Computes the loss of a batch.

        Args:
            feats: the neck's levels, (N, C_l, H_l, W_l).
            batch_data_samples: with ``bboxes`` (n, 4) xyxy, ``keypoints`` (n, K, 2) and
                ``keypoints_visible`` (n, K) in ``gt_instance_labels``, input px, and ``labels``
                (n,), the categories.
            train_cfg: not used; MMPose passes it.

        Returns:
            The four terms, see :class:`KAPAOLoss`.
        """
        grids = self(feats)
        labels = [sample.gt_instance_labels for sample in batch_data_samples]
        return self.loss_of_grids(
            grids,
            [label.bboxes for label in labels],
            [label.keypoints for label in labels],
            [label.keypoints_visible for label in labels],
            [label.labels for label in labels],
        )

    def loss_of_grids(
        self,
        grids: Sequence[Tensor],
        bboxes: Sequence[Tensor],
        keypoints: Sequence[Tensor],
        keypoints_visible: Sequence[Tensor],
        categories: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The loss of given grids; arguments as in :func:`make_objects`."""
        rows, columns = grids[0].shape[2:4]
        input_hw = (rows * self.strides[0], columns * self.strides[0])
        longer = max(input_hw)
        objects = make_objects(
            bboxes,
            keypoints,
            keypoints_visible,
            categories,
            self.num_categories,
            self.keypoint_sizes * longer,
            input_hw,
        )
        matches = [
            self.assigner.assign(objects, anchors, stride, grid.shape[2:4])
            for grid, anchors, stride in zip(grids, self.anchors, self.strides, strict=True)
        ]
        return self.loss_module(grids, matches, self.anchors, longer)

    def predict(
        self, feats: Sequence[Tensor], batch_data_samples: list, test_cfg: dict
    ) -> list[DetectedObjects]:
        """Predicts the objects of every image.

        Args:
            feats: the neck's levels, (N, C_l, H_l, W_l).
            batch_data_samples: not used; MMPose passes them.
            test_cfg: thresholds and limits, see :func:`keep_objects`.

        Returns:
            The kept objects of each image.
        """
        return self.detect(self.candidates(feats, test_cfg), len(feats[0]), test_cfg)

    def candidates(self, feats: Sequence[Tensor], test_cfg: dict) -> Candidates:
        """Decodes what a threshold of pose objects or keypoint objects may keep.

        Args:
            feats: the neck's levels, (N, C_l, H_l, W_l).
            test_cfg: with ``pose_score_thr`` and ``keypoint_score_thr``.

        Returns:
            The candidates of the batch, see :func:`decode_candidates`.
        """
        score_thr = min(test_cfg['pose_score_thr'], test_cfg['keypoint_score_thr'])
        return decode_candidates(
            self(feats), self.anchors, self.strides, self.num_keypoints, score_thr
        )

    def detect(
        self, candidates: Candidates, num_images: int, test_cfg: dict
    ) -> list[DetectedObjects]:
        """Keeps the objects of every image and brings those of the batch to the host at once."""
        poses, points = keep_objects(candidates, num_images, test_cfg, self.num_categories)
        kept = candidates.take(torch.cat((poses, points)))
        columns = torch.stack((kept.image, kept.labels, kept.scores), 1)  # (M, 3)
        rows = torch.cat((columns, kept.boxes, kept.keypoints.flatten(1)), 1)  # (M, 7 + 2K)
        pose_rows, point_rows = np.split(rows.cpu().numpy(), [len(poses)])
        return [
            self._to_detected(pose_rows[pose_rows[:, 0] == i], point_rows[point_rows[:, 0] == i])
            for i in range(num_images)
        ]

    def _to_detected(self, poses: np.ndarray, points: np.ndarray) -> DetectedObjects:
        """Rows of one image -> its objects; a row is image, label, score, box, keypoints."""
        return DetectedObjects(
            boxes=poses[:, 3:7],
            scores=poses[:, 2],
            categories=poses[:, 1].astype(np.int64),
            keypoints=poses[:, 7:].reshape(len(poses), self.num_keypoints, 2),
            point_boxes=points[:, 3:7],
            point_scores=points[:, 2],
            point_types=points[:, 1].astype(np.int64) - self.num_categories,
        )
