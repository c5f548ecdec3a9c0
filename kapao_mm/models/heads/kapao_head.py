# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements KAPAO's head: grid outputs, their loss, and the objects decoded from them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from mmpose.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from kapao_mm.errors import InputError
from kapao_mm.structures import Detections, InferenceSettings, split_by_image

from ..task_modules.objects import make_objects
from ..task_modules.postprocess import Candidates, class_nms, decode, detect
from ..utils.device import to_host


@MODELS.register_module()
class KAPAOHeadModule(BaseModule):
    """One 1x1 convolution for each level, without loss and decoding.

    Args:
        num_keypoints: K.
        num_categories: C.
        in_channels: Channels of each level of the neck, finest level first.
        strides: Px per grid cell of each level.
        num_anchors: Number of anchors of each level, Na.
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
        """Raises the biases of objectness and classes by the expected log rates of objects.

        The constants are those of docs/method.md, Network.
        """
        super().init_weights()
        for conv, stride in zip(self.convs, self.strides, strict=True):
            bias = conv.bias.detach().view(self.num_anchors, -1)  # (Na, No)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)  # 8 objects in an image of 640 px
            bias[:, 5 : 5 + self.num_classes] += math.log(0.6 / (self.num_classes - 0.99))

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Computes the grids.

        Args:
            feats: Feature maps of the neck, (N, C_l, H_l, W_l) for each level.

        Returns:
            Raw outputs of each level, (N, Na, 5 + C + 3K, H_l, W_l), in the order box, objectness,
            classes, keypoints; see :class:`Outputs`.
        """
        return [
            conv(feat).unflatten(1, (self.num_anchors, -1))
            for conv, feat in zip(self.convs, feats, strict=True)
        ]


@MODELS.register_module()
class KAPAOHead(BaseModule):
    """Head that computes the loss of the grids and decodes them into objects.

    Objects may be of several categories, each with its own keypoint types. The classes are the C
    categories, followed by all K keypoint types. With one category this is the model of the paper.

    Args:
        num_keypoints: Number of keypoint types of the dataset, or a list with the number of each
            category. It may be 0 for some, which are then plain boxes.
        in_channels: Channels of each level of the neck, finest level first.
        strides: Px per grid cell of each level.
        anchors: Widths and heights of the anchors of each level, px of the network input.
        keypoint_size: Side of a keypoint object's box, as a fraction of the longer side of the
            network input. One number, or one for each keypoint type.
        assigner: Config of the assigner.
        loss: Config of the loss.

    Attributes:
        keypoint_counts: Number of keypoint types of each category, C numbers.
        num_keypoints: K, the number of all keypoint types.
        num_categories: C.

    Raises:
        InputError: If there is no keypoint type; or ``keypoint_size`` has neither one value nor K
            values, or a value is not above 0.
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
        if min(counts) < 0 or not sum(counts):
            raise InputError(
                f'model.head.num_keypoints is {num_keypoints}: give 0 or more for each category, '
                'and at least 1 for one; for boxes alone train a detector without poses '
                '(MMDetection)'
            )
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
        """Computes the grids, see :meth:`KAPAOHeadModule.forward`."""
        return self.head_module(feats)

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: list, train_cfg: dict | None = None
    ) -> dict[str, Tensor]:
        """Computes the loss of a batch.

        Args:
            feats: Feature maps of the neck, (N, C_l, H_l, W_l) for each level.
            batch_data_samples: Samples whose ``gt_instance_labels`` have ``bboxes`` (n, 4) xyxy,
                ``keypoints`` (n, K, 2) and ``keypoints_visible`` (n, K), in px of the network
                input, and ``labels`` (n,), the categories.
            train_cfg: Not used; MMPose passes it.

        Returns:
            The four terms, see :class:`KAPAOLoss`.
        """
        return self.loss_by_feat(
            self(feats), [sample.gt_instance_labels for sample in batch_data_samples]
        )

    def loss_by_feat(
        self, grids: Sequence[Tensor], instances: Sequence[InstanceData]
    ) -> dict[str, Tensor]:
        """Computes the loss of given grids.

        Args:
            grids: Raw outputs of each level, (N, Na, 5 + C + 3K, H, W).
            instances: Labels of each image, see :meth:`loss`.

        Returns:
            The four terms, see :class:`KAPAOLoss`.
        """
        rows, columns = grids[0].shape[3:]
        input_hw = (rows * self.strides[0], columns * self.strides[0])
        longer = max(input_hw)
        objects = make_objects(
            [image.bboxes for image in instances],
            [image.keypoints for image in instances],
            [image.keypoints_visible for image in instances],
            [image.labels for image in instances],
            self.num_categories,
            self.keypoint_sizes * longer,
            input_hw,
        )
        matches = [
            self.assigner.assign(objects, anchors, stride, grid.shape[3:])
            for grid, anchors, stride in zip(grids, self.anchors, self.strides, strict=True)
        ]
        return self.loss_module(grids, matches, self.anchors, longer)

    def predict(
        self, feats: Sequence[Tensor], batch_data_samples: list, test_cfg: InferenceSettings
    ) -> list[Detections]:
        """Predicts the objects of each image.

        Args:
            feats: Feature maps of the neck, (N, C_l, H_l, W_l) for each level.
            batch_data_samples: Not used; MMPose passes them.
            test_cfg: Inference settings.

        Returns:
            The kept objects of each image, in px of the network input.
        """
        return self.detect(self.decode(self(feats), test_cfg), test_cfg)

    def decode(self, grids: Sequence[Tensor], settings: InferenceSettings) -> Candidates:
        """Decodes the candidates above their score threshold.

        Args:
            grids: Raw outputs of each level, (N, Na, 5 + C + 3K, H, W).
            settings: Inference settings.
        """
        return decode(
            grids, self.anchors, self.strides, self.num_keypoints, settings.candidate_thrs
        )

    def detect(self, candidates: Candidates, settings: InferenceSettings) -> list[Detections]:
        """Suppresses overlapping candidates, and copies the kept objects to the CPU.

        Args:
            candidates: Candidates of the batch.
            settings: Inference settings.

        Returns:
            The kept objects of each image, in px of the network input.
        """
        outputs = detect(candidates, settings, self.num_categories, class_nms)
        return split_by_image(to_host(outputs), len(candidates.scores))
