# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Makes thresholds that MMPose's inferencers are called with work on KAPAO."""

from collections.abc import Iterable
from functools import wraps
from typing import Any

from mmpose.apis.inferencers.base_mmpose_inferencer import BaseMMPoseInferencer

from kapao_mm.errors import InputError
from kapao_mm.models.kapao import KAPAO

SETTINGS = {'bbox_thr': 'pose_score_thr', 'nms_thr': 'pose_iou_thr'}  # MMPose's and KAPAO's names


def demo_thresholds(**arguments: Any) -> dict[str, float]:
    """Returns the inference settings that MMPose's ``bbox_thr`` and ``nms_thr`` stand for.

    Args:
        **arguments: Arguments of a call of an inferencer. Only these two are used.

    Raises:
        InputError: If a threshold is not between 0 and 1.
    """
    given = {name: arguments[name] for name in SETTINGS if arguments.get(name) is not None}
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise InputError(f'{name} must be between 0 and 1, got {value}')
    return {SETTINGS[name]: value for name, value in given.items()}


def let_thresholds_act() -> None:
    """Makes ``bbox_thr`` and ``nms_thr`` of MMPose's own inferencers work on KAPAO.

    MMPose passes them only to models of the exact type BottomupPoseEstimator, and silently ignores
    them for classes derived from it.
    """
    original = BaseMMPoseInferencer.preprocess

    @wraps(original)
    def preprocess(
        self: BaseMMPoseInferencer, inputs: Iterable, *args: Any, **kwargs: Any
    ) -> Iterable:
        if isinstance(self.model, KAPAO):
            self.model.demo_thresholds = demo_thresholds(**kwargs)
        return original(self, inputs, *args, **kwargs)

    BaseMMPoseInferencer.preprocess = preprocess
