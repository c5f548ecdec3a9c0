# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.errors import InputError
from kapao_mm.functional.hide_faces import hide_faces
from kapao_mm.structures import Prediction

SIDE = 200


def person(center: tuple[float, float], spread: float, visible: bool = True) -> Prediction:
    """A person with two ears beside the center, and a hip at the bottom."""
    x, y = center
    points = np.array([[(x - spread, y), (x + spread, y), (100, 190)]], float)
    return Prediction(
        bboxes=np.array([[50.0, 0, 150, 200]]),
        bbox_scores=np.ones(1),
        labels=np.zeros(1, int),
        keypoints=points,
        keypoint_scores=np.zeros((1, 3)),
        keypoints_visible=np.array([[visible, visible, True]]),
        pose_keypoints=points,
    )


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)


def test_a_face_becomes_a_mosaic_of_few_colors_and_the_rest_stays(noise):
    canvas = noise.copy()
    hide_faces(canvas, person((100, 60), 20), [0, 1])
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(x - 100, y - 60)
    assert len(np.unique(canvas[distance < 34], axis=0)) < 70
    np.testing.assert_array_equal(canvas[distance > 38], noise[distance > 38])


@pytest.mark.parametrize('center', [(0, 0), (199, 199), (-500, 50), (1e6, -1e6)])
def test_faces_at_the_edge_and_outside_do_not_fail(noise, center):
    hide_faces(noise, person(center, 20), [0, 1])


def test_a_face_in_profile_is_hidden_by_the_size_of_the_person(noise):
    canvas = noise.copy()
    hide_faces(canvas, person((100, 60), 0), [0, 1])
    assert 300 < (canvas != noise).any(-1).sum() < 700  # a radius of 0.06 * 200 px


def test_a_category_without_a_face_stays(noise):
    canvas = noise.copy()
    hide_faces(canvas, person((100, 60), 20, visible=False), [0, 1])
    np.testing.assert_array_equal(canvas, noise)


def test_keypoints_without_a_face_are_an_error(noise):
    with pytest.raises(InputError, match='no keypoint is named eye, ear'):
        hide_faces(noise, person((100, 60), 20), [])
