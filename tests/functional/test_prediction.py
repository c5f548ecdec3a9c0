# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.functional.prediction import (
    DetectedObjects,
    Prediction,
    predict_in_image,
    prediction_dict,
)

SETTINGS = dict(fusion_score_thr=0.2, fusion_distance=50)


def prediction(**changes) -> Prediction:
    """One pose of two keypoints, the first fused, and one keypoint object."""
    return Prediction(
        boxes=np.array([[1, 2, 30, 40.5]]),
        scores=np.array([0.9], np.float32),
        categories=np.array([0]),
        pose_keypoints=np.array([[[8.0, 9], [5, 6]]]),
        keypoints=np.array([[[3.0, 4], [5, 6]]]),
        keypoint_scores=np.array([[0.8, 0]]),
        own=np.array([[True, True]]),
        point_boxes=np.array([[2.0, 3, 4, 5]]),
        point_scores=np.array([0.8], np.float32),
        point_types=np.array([1]),
    )._replace(**changes)


def test_keypoints_are_fused_where_an_object_gave_them_its_confidence():
    np.testing.assert_array_equal(prediction().fused, [[True, False]])


def test_dict_has_every_number_in_order():
    categories = [dict(name='cat', keypoint_ids=[0, 1])]
    found = prediction_dict(prediction(), 'x/a.jpg', (120, 90), ['nose', 'tail'], categories)
    expected = {
        'image': 'x/a.jpg',
        'width': 120,
        'height': 90,
        'keypoint_names': ['nose', 'tail'],
        'poses': [
            {
                'bbox': [1, 2, 30, 40.5],
                'score': 0.9,
                'keypoints': [[3, 4, 0.8], [5, 6, 0]],
                'fused': [True, False],
            }
        ],
        'keypoint_objects': [{'bbox': [2, 3, 4, 5], 'score': 0.8, 'type': 'tail'}],
    }
    assert found == expected
    assert json.loads(json.dumps(found)) == expected
    assert [list(found), list(found['poses'][0])] == [list(expected), list(expected['poses'][0])]


def test_dict_has_the_keypoints_of_each_category():
    two = prediction(
        boxes=np.ones((2, 4)),
        scores=np.array([0.9, 0.8]),
        categories=np.array([1, 0]),
        pose_keypoints=np.zeros((2, 3, 2)),
        keypoints=np.arange(12.0).reshape(2, 3, 2),
        keypoint_scores=np.array([[0, 0.5, 0], [0, 0, 0]]),
        own=np.array([[False, True, True], [True, False, False]]),
    )
    names = ['cat/nose', 'car/hood', 'car/wheel']
    categories = [dict(name='cat', keypoint_ids=[0]), dict(name='car', keypoint_ids=[1, 2])]
    found = prediction_dict(two, 'a.jpg', (120, 90), names, categories)
    assert found['keypoint_names'] == {'cat': ['cat/nose'], 'car': ['car/hood', 'car/wheel']}
    car, cat = found['poses']
    assert (car['category'], cat['category']) == ('car', 'cat')
    assert (car['keypoints'], cat['keypoints']) == ([[2, 3, 0.5], [4, 5, 0]], [[6, 7, 0]])
    assert (car['fused'], cat['fused']) == ([True, False], [False])
    assert found['keypoint_objects'][0]['type'] == 'car/hood'


def test_numbers_are_rounded():
    third = prediction(boxes=np.full((1, 4), 1 / 3))
    found = prediction_dict(third, 'a', (1, 1), ['a', 'b'], [dict(name='c', keypoint_ids=[0, 1])])
    assert found['poses'][0]['bbox'] == [0.3333] * 4


@pytest.mark.parametrize('counts', [[2], [1, 1]])
def test_dict_of_no_poses_is_empty(counts):
    nothing = predict_in_image(objects([], 2), np.ones(2), np.zeros(2), (9, 9), counts, SETTINGS)
    ids = np.split(np.arange(2), np.cumsum(counts)[:-1])
    categories = [dict(name=str(i), keypoint_ids=part.tolist()) for i, part in enumerate(ids)]
    found = prediction_dict(nothing, 'a', (9, 9), ['a', 'b'], categories)
    assert found['poses'] == found['keypoint_objects'] == []


def objects(categories: list[int], num_types: int) -> DetectedObjects:
    """A pose for each category, its keypoints at (10, 20); an object of type 0 at (12, 20)."""
    count = len(categories)
    return DetectedObjects(
        boxes=np.tile(np.array([[-5, 10, 30, 40]], np.float32), (count, 1)),
        scores=np.full(count, 0.9, np.float32),
        categories=np.array(categories, np.int64),
        keypoints=np.full((count, num_types, 2), (10, 20), np.float32),
        point_boxes=np.tile(np.array([[8, 16, 16, 24]], np.float32), (min(count, 1), 1)),
        point_scores=np.full(min(count, 1), 0.8, np.float32),
        point_types=np.zeros(min(count, 1), np.int64),
    )


def test_objects_are_mapped_to_the_image_and_fused_there():
    found = predict_in_image(
        objects([0], 2), np.array([2, 3]), np.array([1, -1]), (50, 100), [2], SETTINGS
    )
    np.testing.assert_allclose(found.boxes, [[0, 29, 50, 100]])  # clipped
    np.testing.assert_allclose(found.pose_keypoints, [[[21, 59], [21, 59]]])
    np.testing.assert_allclose(found.keypoints, [[[25, 59], [21, 59]]])
    np.testing.assert_allclose(found.keypoint_scores, [[0.8, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.point_boxes, [[17, 47, 33, 71]])


def test_poses_have_the_types_of_their_category_only():
    found = predict_in_image(
        objects([1, 0], 3), np.ones(2), np.zeros(2), (50, 50), [1, 2], SETTINGS
    )
    np.testing.assert_array_equal(found.own, [[False, True, True], [True, False, False]])
    assert (found.pose_keypoints[~found.own] == 0).all() and (
        found.keypoints[~found.own] == 0
    ).all()
    np.testing.assert_array_equal(found.fused, [[False, False, False], [True, False, False]])
