# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The MMEngine model: images to poses in the original image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.models.pose_estimators import BottomupPoseEstimator
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.functional.fusion import fuse

from .heads.kapao_head import DetectedObjects


@MODELS.register_module()
class KAPAO(BottomupPoseEstimator):
    """Keypoints And Poses As Objects (ECCV 2022).

    Args:
        args: as in :class:`BottomupPoseEstimator`.
        channels_last: keep the weights in the memory format that is faster on CPUs and for mixed
            precision.
        kwargs: as in :class:`BottomupPoseEstimator`; ``test_cfg`` has the thresholds and limits of
            :func:`keep_objects`, ``fusion_score_thr`` and ``fusion_distance`` (original-image px).
    """

    def __init__(self, *args: Any, channels_last: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def add_pred_to_datasample(
        self,
        batch_pred_instances: Sequence[DetectedObjects],
        batch_pred_fields: None,
        batch_data_samples: list[PoseDataSample],
    ) -> list[PoseDataSample]:
        """Maps the objects to the original images and fuses them there (spec, Inference 3 and 4).

        MMPose's method maps poses only; fusion needs the keypoint objects in original-image px too.

        Args:
            batch_pred_instances: the kept objects of each image, input px.
            batch_pred_fields: not used; MMPose passes it.
            batch_data_samples: with ``input_size``, ``input_center``, ``input_scale`` and
                ``ori_shape``.

        Returns:
            The samples, each with (numpy, original-image px):

            - ``pred_instances``: bboxes (P, 4) xyxy, bbox_scores (P,), keypoints (P, K, 2),
              keypoint_scores (P, K), 0 where nothing was fused, keypoints_visible (P, K),
              keypoints_fused (P, K) bool, pose_keypoints (P, K, 2) before fusion.
            - ``pred_keypoint_objects``: bboxes (Q, 4) xyxy, scores (Q,), labels (Q,), the
              keypoint types 0..K-1.
        """
        for objects, sample in zip(batch_pred_instances, batch_data_samples, strict=True):
            add_objects_to_datasample(objects, sample, self.test_cfg)
        return batch_data_samples


def add_objects_to_datasample(
    objects: DetectedObjects, sample: PoseDataSample, test_cfg: dict
) -> None:
    """Does the work of :meth:`KAPAO.add_pred_to_datasample` for one image."""
    input_scale = np.asarray(sample.input_scale, dtype=np.float64)
    scale = input_scale / sample.input_size  # (2,)
    origin = sample.input_center - input_scale / 2
    pose_keypoints = objects.keypoints * scale + origin
    point_boxes = objects.point_boxes.reshape(-1, 2, 2) * scale + origin  # (Q, 2, 2)

    keypoints, confidences = fuse(
        pose_keypoints,
        objects.scores,
        point_boxes.mean(1),
        objects.point_scores,
        objects.point_types,
        test_cfg['fusion_score_thr'],
        test_cfg['fusion_distance'],
    )
    border = np.asarray(sample.ori_shape[1::-1])  # (w, h); boxes are clipped for output only
    boxes = (objects.boxes.reshape(-1, 2, 2) * scale + origin).clip(0, border)
    sample.pred_instances = InstanceData(
        bboxes=boxes.reshape(-1, 4),
        bbox_scores=objects.scores,
        keypoints=keypoints,
        keypoint_scores=confidences,
        keypoints_visible=np.ones_like(confidences),  # a pose object regresses every keypoint
        keypoints_fused=confidences > 0,
        pose_keypoints=pose_keypoints,
    )
    sample.set_field(
        InstanceData(
            bboxes=point_boxes.clip(0, border).reshape(-1, 4),
            scores=objects.point_scores,
            labels=objects.point_types,
        ),
        'pred_keypoint_objects',
        dtype=InstanceData,
    )
