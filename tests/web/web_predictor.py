# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""A predictor without a network, for tests of the page in the browser."""

import numpy as np

from kapao_mm.apis.predictor import Predictor
from kapao_mm.errors import InputError
from kapao_mm.structures import (
    Detections,
    InferenceSettings,
    KeypointObjects,
    Metainfo,
    PoseObjects,
)


class MadeUpPredictor(Predictor):
    """Finds two people with a nose and two hands in each image; the second has a score of 0.3.

    Args:
        fixed: Whether it is like an exported model, with fixed thresholds.
        cars: Whether the second one is a car, whose category has no keypoints.

    Attributes:
        runs: Settings and shape of the input of each run of the network.
    """

    def __init__(self, fixed: bool = False, cars: bool = False) -> None:
        self.settings = InferenceSettings(0.2, 0.5, 0.2, 0.5, 0.2, 50, 30000, 300)
        self.input_size, self.square_input = 64, True
        self.fixed, self.cars, self.runs = fixed, cars, []
        car = [dict(name='car', keypoint_ids=[])]
        self.metainfo = Metainfo(
            categories=[dict(name='person', keypoint_ids=[0, 1, 2]), *(car if cars else [])],
            keypoint_names=['nose', 'left_hand', 'right_hand'],
            flip_pairs=[[1, 2]],
            sigmas=[0.1] * 3,
            skeleton_links=[[0, 1], [0, 2]],
            keypoint_colors=[[0, 0, 255], [0, 255, 0], [255, 128, 0]],
            link_colors=[[0, 255, 0], [255, 128, 0]],
        )

    def change_settings(self, **changes: float) -> InferenceSettings:
        for name in ('pose_iou_thr', 'keypoint_iou_thr'):
            if self.fixed and changes.get(name, 0.5) != 0.5:
                raise InputError(f'{name} is fixed')
        for name in ('pose_score_thr', 'keypoint_score_thr'):
            if self.fixed and changes.get(name, 1) < 0.2:
                raise InputError(f'{name} is at least 0.2')
        return super().change_settings(**changes)

    def run_network(self, batch: np.ndarray, settings: InferenceSettings) -> list[Detections]:
        self.runs.append((settings, batch.shape))
        size = batch.shape[1] / 64
        poses = PoseObjects(
            bboxes=size * np.array([[4.0, 20, 28, 44], [36, 20, 60, 44]]),
            scores=np.array([0.9, 0.3]),
            labels=np.array([0, int(self.cars)]),
            keypoints=size
            * np.array([[[16.0, 24], [24, 36], [8, 36]], [[48, 24], [56, 36], [40, 36]]]),
        )
        objects = KeypointObjects(
            bboxes=size * np.array([[14.0, 22, 18, 26], [22, 34, 26, 38], [46, 22, 50, 26]]),
            scores=np.array([0.8, 0.6, 0.1]),
            labels=np.array([0, 1, 0]),
        )
        kept = poses.scores > settings.pose_score_thr
        kept_objects = objects.scores > settings.keypoint_score_thr
        found = Detections(
            PoseObjects(*(field[kept] for field in poses)),
            KeypointObjects(*(field[kept_objects] for field in objects)),
        )
        return [found] * len(batch)
