# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""COCO keypoint evaluation with KAPAO's scores."""

from typing import Any

from mmengine.logging import MMLogger
from mmpose.evaluation import CocoMetric
from mmpose.registry import METRICS


@METRICS.register_module()
class KAPAOMetric(CocoMetric):
    """MMPose's CocoMetric, where a person's score is the pose object's confidence alone.

    MMPose's defaults rescore by keypoint scores, which are 0 where nothing was fused, and suppress
    by OKS once more (spec, Inference). Arguments as in :class:`CocoMetric`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**dict(score_mode='bbox', nms_mode='none') | kwargs)

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
