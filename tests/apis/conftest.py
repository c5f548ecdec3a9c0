# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kapao_mm.apis.result import Result
from kapao_mm.structures import KeypointObjects, Metainfo, Prediction

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
