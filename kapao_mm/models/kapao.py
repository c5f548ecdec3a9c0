# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements KAPAO as an MMEngine model that predicts poses in px of the original image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmdet.models.layers import CSPLayer
from mmengine.dist import all_reduce
from mmpose.models.pose_estimators import BottomupPoseEstimator
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor

from kapao_mm.functional.postprocess import predict_in_image
from kapao_mm.structures import USES, Detections, InferenceSettings
from kapao_mm.structures.data_sample import to_data_sample

from .utils.levels import check_levels
from .utils.training import compile_in_training, recompute_in_backward


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
            :meth:`InferenceSettings.from_test_cfg`.

    Attributes:
        settings: Inference settings of each use.
        demo_thresholds: Settings that replace some of those for ``demo``, as given in the current
            call of an inferencer.

    Raises:
        InputError: If ``test_cfg`` lacks a setting or has an unknown one, or the parts differ in
            their numbers of levels.
    """

    def __init__(
        self,
        *args: Any,
        channels_last: bool = False,
        checkpoint_activations: bool = False,
        compile_network: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(kwargs.get('head'), dict):
            check_levels(kwargs.get('backbone') or {}, kwargs.get('neck'), kwargs['head'])
        super().__init__(*args, **kwargs)
        # Read now, because MMPose's inferencer adds keys of its own to test_cfg later.
        self.settings = {use: InferenceSettings.from_test_cfg(self.test_cfg, use) for use in USES}
        self.demo_thresholds: dict[str, float] = {}
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
        detections = self.head.predict(self.extract_feat(inputs), data_samples, settings)
        return self.add_pred_to_datasample(detections, None, data_samples, settings)

    def settings_for(self, data_samples: Sequence[PoseDataSample], use: str) -> InferenceSettings:
        """Returns the inference settings for a batch.

        Samples of a dataset get the settings of ``use``, all others get the settings for ``demo``.
        The two are told apart by ``img_id``: every sample of a dataset has one, because metrics
        need it, and other images have none. This is necessary because MMPose's inferencers and
        demos call ``test_step`` just as a Runner does.

        Args:
            data_samples: Samples of the batch.
            use: One of the keys of ``settings``.
        """
        if all('img_id' in sample for sample in data_samples):
            return self.settings[use]
        return replace(self.settings['demo'], **self.demo_thresholds)

    def add_pred_to_datasample(
        self,
        batch_pred_instances: Sequence[Detections],
        batch_pred_fields: None,
        batch_data_samples: list[PoseDataSample],
        test_cfg: InferenceSettings,
    ) -> list[PoseDataSample]:
        """Maps the objects to the original images and fuses them there.

        These are steps 3 and 4 of docs/method.md, Inference. MMPose's method maps poses only, but
        fusion needs the keypoint objects in px of the original image too.

        Args:
            batch_pred_instances: Kept objects of each image, in px of the network input.
            batch_pred_fields: Not used; MMPose has it.
            batch_data_samples: Samples with ``input_size``, ``input_center``, ``input_scale`` and
                ``ori_shape``.
            test_cfg: Inference settings.

        Returns:
            The samples with predictions, see :func:`to_data_sample`.
        """
        for detections, sample in zip(batch_pred_instances, batch_data_samples, strict=True):
            input_scale = np.asarray(sample.input_scale, dtype=np.float64)
            prediction = predict_in_image(
                detections,
                scale=input_scale / sample.input_size,
                origin=sample.input_center - input_scale / 2,
                image_size=sample.ori_shape[1::-1],
                keypoint_counts=self.head.keypoint_counts,
                settings=test_cfg,
            )
            to_data_sample(prediction, sample)
        return batch_data_samples
