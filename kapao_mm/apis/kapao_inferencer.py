# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""MMPose's inferencer for KAPAO."""

import logging
import os.path as osp
from collections.abc import Callable
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmpose.apis import Pose2DInferencer
from mmpose.registry import INFERENCERS, MODELS
from mmpose.structures import PoseDataSample
from torch import nn

from kapao_mm import register_all_modules
from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import check_checkpoint
from kapao_mm.errors import InputError
from kapao_mm.functional.prediction import Prediction, prediction_dict
from kapao_mm.models.inference_cost import half_precision, prepare_for_inference
from kapao_mm.models.kapao import inference_settings


@INFERENCERS.register_module()
class KAPAOInferencer(Pose2DInferencer):
    """Pose2DInferencer with the settings for pictures, that keeps all that KAPAO predicts.

    The settings are those of ``model.test_cfg`` for ``pictures``; MMPose's ``bbox_thr``,
    ``nms_thr`` and ``kpt_thr`` mean nothing here and are refused. Predictions are as
    :func:`prediction_dict` says.

    Args:
        model: Config file, or a loaded config.
        weights: Path or URL of a checkpoint.
        amp: Half precision, bfloat16 on a CPU; see :func:`prepare_for_inference`.
        random_weights: Whether to go without a checkpoint, as for measurements of speed.
        **kwargs: Those of :class:`Pose2DInferencer`.

    Raises:
        InputError: If the checkpoint is missing, cannot be read or does not fit the config, or a
            setting is unknown. Also when called, if an image cannot be read.

    Example:
        >>> inferencer = KAPAOInferencer('configs/kapao/kapao_s_coco.py', 'kapao_s.pth')
        >>> for result in inferencer(['a.jpg', 'b.jpg'], return_vis=True):
        ...     poses, picture = result['predictions'][0]['poses'], result['visualization'][0]
    """

    preprocess_kwargs: set = set()
    forward_kwargs: set = set()
    visualize_kwargs = Pose2DInferencer.visualize_kwargs - {
        'draw_heatmap',
        'kpt_thr',
        'skeleton_style',
    }
    postprocess_kwargs = {'pred_out_dir'}

    def __init__(
        self,
        model: str | Config,
        weights: str | None = None,
        amp: bool = False,
        random_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        register_all_modules()
        self.amp = amp
        self.random_weights = random_weights
        super().__init__(model, weights, **kwargs)
        self.visualizer.score_thr = 0.0  # what passed the model's thresholds is drawn

    def _init_model(self, cfg: Config, weights: str | None, device: str) -> nn.Module:
        cfg.model.test_cfg = inference_settings(cfg.model.test_cfg, 'pictures')
        if weights is None and not self.random_weights:
            raise InputError(
                'no weights given: give a checkpoint, or random_weights=True to predict with '
                'random ones'
            )
        if weights is not None:
            with torch.device('meta'):
                check_checkpoint(weights, MODELS.build(cfg.model))
        model = super()._init_model(cfg, weights, device)
        prepare_for_inference(model, half_precision(device) if self.amp else 'float32')
        return model

    def _load_weights_to_model(
        self, model: nn.Module, checkpoint: dict | None, cfg: Config
    ) -> None:
        """Adds the config's metainfo where the checkpoint has none, or no categories yet."""
        meta = checkpoint.setdefault('meta', {}) if checkpoint else {}
        if 'categories' not in meta.get('dataset_meta', {}):
            dataset = cfg.train_dataloader.dataset
            while 'metainfo' not in dataset:  # of a wrapper
                dataset = dataset.dataset
            meta['dataset_meta'] = read_metainfo(dataset.metainfo)
        if checkpoint:
            super()._load_weights_to_model(model, checkpoint, cfg)
        else:
            print_log('the weights are random', 'current', logging.WARNING)
            model.dataset_meta = meta['dataset_meta']

    def _init_collate(self, cfg: Config) -> Callable:
        return pseudo_collate  # MMEngine's own search for it warns about scopes

    def postprocess(
        self,
        preds: list[PoseDataSample],
        visualization: list[np.ndarray] | None,
        return_datasamples: bool = False,
        pred_out_dir: str = '',
    ) -> dict[str, list]:
        """Turns predictions into dicts and writes them to ``pred_out_dir``, if it is given.

        Returns:
            ``predictions`` (dicts, or the samples themselves) and ``visualization`` (pictures), one
            an image.
        """
        predictions = [sample_dict(pred, self.model.dataset_meta) for pred in preds]
        if self._video_input:
            self.video_info['predictions'] += predictions  # written after the last frame
        elif pred_out_dir:
            for prediction in predictions:
                name = osp.splitext(osp.basename(prediction['image']))[0] + '.json'
                mmengine.dump(prediction, osp.join(pred_out_dir, name))
        return {
            'predictions': preds if return_datasamples else predictions,
            'visualization': visualization,
        }


def sample_dict(data_sample: PoseDataSample, dataset_meta: dict[str, Any]) -> dict[str, Any]:
    """The :func:`prediction_dict` of an image with what :class:`KAPAO` predicted."""
    poses, points = data_sample.pred_instances, data_sample.pred_keypoint_objects
    prediction = Prediction(
        boxes=poses.bboxes,
        scores=poses.bbox_scores,
        categories=poses.labels,
        pose_keypoints=poses.pose_keypoints,
        keypoints=poses.keypoints,
        keypoint_scores=poses.keypoint_scores,
        own=poses.keypoints_visible > 0,
        point_boxes=points.bboxes,
        point_scores=points.scores,
        point_types=points.labels,
    )
    return prediction_dict(
        prediction,
        data_sample.img_path,
        data_sample.ori_shape[::-1],
        list(dataset_meta['keypoint_id2name'].values()),
        dataset_meta['categories'],
    )
