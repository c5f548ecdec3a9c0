# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""COCO keypoint evaluation with KAPAO's scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from mmpose.evaluation import CocoMetric
from mmpose.registry import METRICS

# xtcocotools drops a pose whose keypoints all score 0, which means "not fused" here.
UNFUSED_SCORE = 1e-6


@METRICS.register_module()
class KAPAOMetric(CocoMetric):
    """MMPose's CocoMetric, where a person's score is the pose object's confidence alone.

    MMPose's defaults rescore by keypoint scores, which are 0 where nothing was fused, and suppress
    by OKS once more (spec, Inference). Arguments as in :class:`CocoMetric`. Several processes
    collect their results through their group, 'gpu' or not: MMEngine's default needs a folder that
    all their machines share.
    """

    def __init__(self, **kwargs: Any) -> None:
        defaults = dict(score_mode='bbox', nms_mode='none', collect_device='gpu')
        super().__init__(**defaults | kwargs)

    def process(self, data_batch: Sequence[dict], data_samples: Sequence[dict]) -> None:
        """Stores the predictions of a batch, see :class:`CocoMetric`."""
        super().process(data_batch, data_samples)
        for prediction, _ in self.results[len(self.results) - len(data_samples) :]:
            scores = prediction['keypoint_scores']
            prediction['keypoint_scores'] = np.maximum(scores, UNFUSED_SCORE)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Computes the metrics; xtcocotools cannot, where no pose at all was predicted.

        Args:
            results: pairs of prediction and ground truth, one an image.

        Returns:
            The metrics of :class:`CocoMetric`, or AP and AR of 0.
        """
        if self.format_only or any(len(prediction['keypoints']) for prediction, _ in results):
            return super().compute_metrics(results)
        MMLogger.get_current_instance().warning(
            f'no pose in {len(results)} images scored above model.test_cfg.pose_score_thr: AP is 0'
        )
        return dict(AP=0.0, AR=0.0)
