# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements KAPAO as an MMEngine model that predicts poses in px of the original image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.layers import CSPLayer
from mmengine.dist import all_reduce
from mmengine.structures import InstanceData
from mmpose.models.pose_estimators import BottomupPoseEstimator
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor

from kapao_mm.errors import InputError
from kapao_mm.functional.prediction import DetectedObjects, Prediction, predict_in_image

from .utils.training import compile_in_training, recompute_in_backward

SETTINGS = (
    'pose_score_thr',
    'pose_iou_thr',
    'keypoint_score_thr',
    'keypoint_iou_thr',
    'fusion_score_thr',
    'fusion_distance',
    'max_candidates',
    'max_objects',
)
USES = ('validation', 'pictures', 'tta')  # other uses than evaluation


def inference_settings(test_cfg: Mapping, use: str = 'evaluation') -> dict[str, float]:
    """Returns the inference settings of a use.

    Args:
        test_cfg: ``model.test_cfg`` of a config. It holds all settings for evaluation, and for each
            other use a dict of the settings that differ there.
        use: ``evaluation`` or one of :data:`USES`.

    Returns:
        Value of each of the :data:`SETTINGS`.

    Raises:
        InputError: If a setting for evaluation is missing, or a key is unknown.
    """
    base = {key: value for key, value in test_cfg.items() if key not in USES}
    changes = {name: test_cfg.get(name, {}) for name in USES}
    given = [*base, *(f'{name}.{key}' for name in USES for key in changes[name])]
    unknown = [key for key in given if key.split('.')[-1] not in SETTINGS]
    if unknown:
        raise InputError(
            f'model.test_cfg.{unknown[0]} is no setting; there are {", ".join(SETTINGS)}'
        )
    missing = [name for name in SETTINGS if name not in base]
    if missing:
        raise InputError(f'model.test_cfg lacks {", ".join(missing)}')
    return base if use == 'evaluation' else {**base, **changes[use]}


@MODELS.register_module()
class KAPAO(BottomupPoseEstimator):
    """Keypoints And Poses As Objects (ECCV 2022).

    Args:
        args: Positional arguments of :class:`BottomupPoseEstimator`.
        channels_last: Whether to keep the weights in the channels-last memory format, which is
            faster on CPUs and with mixed precision.
        checkpoint_activations: Whether to recompute activations in the backward pass. This saves
            memory and does not change the results, see :func:`recompute_in_backward`.
        compile_network: Whether to compile backbone, neck and head convolutions for training
            (torch.compile). Results differ by rounding only, see :func:`compile_in_training`.
        kwargs: Keyword arguments of :class:`BottomupPoseEstimator`. For ``test_cfg`` see
            :func:`inference_settings`.

    Attributes:
        settings: Inference settings of each use.
        picture_thresholds: Settings that replace some of those for pictures, as given in the
            current call of an inferencer.

    Raises:
        InputError: If ``test_cfg`` lacks a setting or has an unknown one.
    """

    def __init__(
        self,
        *args: Any,
        channels_last: bool = False,
        checkpoint_activations: bool = False,
        compile_network: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # Read now, because MMPose's inferencer adds keys of its own to test_cfg later.
        self.settings = {
            use: inference_settings(self.test_cfg, use) for use in ('evaluation', *USES)
        }
        self.picture_thresholds: dict[str, float] = {}
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if checkpoint_activations:
            csp_layers = [layer for layer in self.neck.modules() if isinstance(layer, CSPLayer)]
            recompute_in_backward([*self.backbone.children(), *csp_layers])
        if compile_network:
            compile_in_training([self.backbone, self.neck, self.head.head_module])

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sums the terms of the loss, and averages the logged values over the processes.

        Each process computes its part of the loss of the whole batch. MMEngine logs the values of
        the first process only.
        """
        loss, logged = super().parse_losses(losses)
        values = torch.stack([value.detach() for value in logged.values()])
        all_reduce(values, 'mean')
        return loss, dict(zip(logged, values, strict=True))

    def val_step(self, data: dict) -> list[PoseDataSample]:
        """Predicts with the settings for validation.

        MMEngine's ``test_step`` calls :meth:`predict` with the settings for evaluation.
        """
        return self.predict(**self.data_preprocessor(data, False), use='validation')

    def predict(
        self, inputs: Tensor, data_samples: list[PoseDataSample], use: str = 'evaluation'
    ) -> list[PoseDataSample]:
        """Predicts the poses of a batch.

        Args:
            inputs: Network inputs, (N, 3, H, W).
            data_samples: Samples of the batch, with what :meth:`add_pred_to_datasample` needs.
            use: Key of ``settings``, see :meth:`settings_for`.

        Returns:
            The samples with predictions, see :meth:`add_pred_to_datasample`.
        """
        settings = self.settings_for(data_samples, use)
        objects = self.head.predict(self.extract_feat(inputs), data_samples, settings)
        return self.add_pred_to_datasample(objects, None, data_samples, settings)

    def settings_for(self, data_samples: Sequence[PoseDataSample], use: str) -> dict[str, float]:
        """Returns the inference settings for a batch.

        Samples of a dataset get the settings of ``use``, all others get the settings for pictures.
        The two are told apart by ``img_id``: every sample of a dataset has one, because metrics
        need it, and pictures have none. This is necessary because MMPose's inferencers and demos
        call ``test_step`` just as a Runner does.

        Args:
            data_samples: Samples of the batch.
            use: One of the keys of ``settings``.
        """
        if all('img_id' in sample for sample in data_samples):
            return self.settings[use]
        return self.settings['pictures'] | self.picture_thresholds

    def add_pred_to_datasample(
        self,
        batch_pred_instances: Sequence[DetectedObjects],
        batch_pred_fields: None,
        batch_data_samples: list[PoseDataSample],
        test_cfg: dict,
    ) -> list[PoseDataSample]:
        """Maps the objects to the original images and fuses them there.

        These are steps 3 and 4 of docs/method.md, Inference. MMPose's method maps poses only, but
        fusion needs the keypoint objects in px of the original image too.

        Args:
            batch_pred_instances: Kept objects of each image, in px of the network input.
            batch_pred_fields: Not used; MMPose has it.
            batch_data_samples: Samples with ``input_size``, ``input_center``, ``input_scale`` and
                ``ori_shape``.
            test_cfg: Settings with ``fusion_score_thr`` and ``fusion_distance`` (px of the original
                image).

        Returns:
            The samples with these fields, which are numpy arrays in px of the original image:

            - ``pred_instances``: bboxes (P, 4) xyxy; bbox_scores (P,); keypoints (P, K, 2);
              keypoint_scores (P, K), 0 for keypoints without fusion; keypoints_visible (P, K), 1
              for the keypoint types of the pose's category and 0 for other types, whose keypoints
              are zeros; keypoints_fused (P, K) bool; pose_keypoints (P, K, 2), the keypoints before
              fusion; labels (P,), the categories 0..C-1.
            - ``pred_keypoint_objects``: bboxes (Q, 4) xyxy; scores (Q,); labels (Q,), the keypoint
              types 0..K-1.
        """
        for objects, sample in zip(batch_pred_instances, batch_data_samples, strict=True):
            add_objects_to_datasample(objects, sample, test_cfg, self.head.keypoint_counts)
        return batch_data_samples


def add_objects_to_datasample(
    objects: DetectedObjects,
    sample: PoseDataSample,
    test_cfg: dict,
    keypoint_counts: Sequence[int],
) -> None:
    """Maps and fuses the objects of one image, see :meth:`KAPAO.add_pred_to_datasample`.

    Args:
        objects: Kept objects of the image, in px of the network input.
        sample: Sample of the image; the predictions are added to it.
        test_cfg: Settings with ``fusion_score_thr`` and ``fusion_distance`` (px of the original
            image).
        keypoint_counts: Number of keypoint types of each category, C numbers.
    """
    input_scale = np.asarray(sample.input_scale, dtype=np.float64)
    prediction = predict_in_image(
        objects,
        scale=input_scale / sample.input_size,
        origin=sample.input_center - input_scale / 2,
        image_size=sample.ori_shape[1::-1],
        keypoint_counts=keypoint_counts,
        settings=test_cfg,
    )
    add_prediction_to_datasample(prediction, sample)


def add_prediction_to_datasample(prediction: Prediction, sample: PoseDataSample) -> None:
    """Stores a prediction in a sample, in the fields of :meth:`KAPAO.add_pred_to_datasample`."""
    sample.pred_instances = InstanceData(
        bboxes=prediction.boxes,
        bbox_scores=prediction.scores,
        keypoints=prediction.keypoints,
        keypoint_scores=prediction.keypoint_scores,
        keypoints_visible=prediction.own.astype(float),  # a pose object regresses every keypoint
        keypoints_fused=prediction.fused,
        pose_keypoints=prediction.pose_keypoints,
        labels=prediction.categories,
    )
    sample.set_field(
        InstanceData(
            bboxes=prediction.point_boxes,
            scores=prediction.point_scores,
            labels=prediction.point_types,
        ),
        'pred_keypoint_objects',
        dtype=InstanceData,
    )
