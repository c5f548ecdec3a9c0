# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures: a result, and a predictor without a network."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kapao_mm.apis.predictor import Predictor
from kapao_mm.apis.result import Result
from kapao_mm.structures import (
    Detections,
    InferenceSettings,
    KeypointObjects,
    Metainfo,
    PoseObjects,
    Prediction,
)

METAINFO = Metainfo(
    categories=[dict(name='cat', keypoint_ids=[0, 1]), dict(name='car', keypoint_ids=[2])],
    keypoint_names=['nose', 'tail', 'hood'],
    flip_pairs=[],
    sigmas=[0.1] * 3,
    skeleton_links=[[0, 1]],
    keypoint_colors=[[255, 0, 0]] * 3,
    link_colors=[[0, 255, 0]],
)


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Makes a car and a cat, whose nose is fused."""
    return _make_result


def _make_result(**changes) -> Result:
    prediction = Prediction(
        bboxes=np.array([[10.0, 10, 50, 40], [20, 30, 60, 80]]),
        bbox_scores=np.array([0.9, 0.6], np.float32),
        labels=np.array([1, 0]),
        keypoints=np.array([[[0.0, 0], [0, 0], [30, 20]], [[25, 35], [55, 70], [0, 0]]]),
        keypoint_scores=np.array([[0, 0, 0], [0.8, 0, 0]]),
        keypoints_visible=np.array([[False, False, True], [True, True, False]]),
        pose_keypoints=np.zeros((2, 3, 2)),
        keypoint_objects=KeypointObjects(np.ones((1, 4)), np.array([0.8]), np.array([0])),
    )
    image = np.full((100, 80, 3), 90, np.uint8)
    return replace(Result(prediction, image, 'x/a.png', METAINFO), **changes)


class BrightSpot(Predictor):
    """Finds a cat in images that are bright somewhere, whose nose is the brightest pixel."""

    metainfo = METAINFO
    settings = InferenceSettings(0.5, 0.45, 0.5, 0.45, 0.2, 50, 30000, 300)
    input_size = 128
    square_input = False

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def run_network(self, batch: np.ndarray, settings: InferenceSettings) -> list[Detections]:
        """Detects the cats; the score is the brightness."""
        self.batches.append(batch.shape)
        return [self._find(image[..., 0]) for image in batch]

    def _find(self, image: np.ndarray) -> Detections:
        y, x = np.unravel_index(image.argmax(), image.shape)
        score = np.array([image.max() / 255])
        box = np.array([[x - 10, y - 10, x + 10, y + 10]], float)
        keypoints = np.array([[[x + 3, y], [x, y + 9], [0, 0]]], float)
        nose = np.array([[x - 2, y - 2, x + 2, y + 2]], float)
        rows = slice(0, int(score[0] > self.settings.pose_score_thr))
        label = np.array([0])
        return Detections(
            PoseObjects(box[rows], score[rows], label[rows], keypoints[rows]),
            KeypointObjects(nose[rows], score[rows], label[rows]),
        )


@pytest.fixture
def predictor() -> BrightSpot:
    """Returns a predictor without a network."""
    return BrightSpot()


@pytest.fixture
def make_image() -> Callable[..., np.ndarray]:
    """Makes a gray image (h, w, 3) uint8 with a bright spot."""

    def make(
        size: tuple[int, int] = (128, 64), spot: tuple[int, int] = (40, 30), value: int = 255
    ) -> np.ndarray:
        image = np.full((*size[::-1], 3), 90, np.uint8)
        image[spot[1], spot[0]] = value
        return image

    return make
