# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import builtins
import json
from dataclasses import replace

import numpy as np
import pytest

from kapao_mm.errors import InputError
from kapao_mm.structures import KeypointObjects, Metainfo, Prediction


def prediction(**changes) -> Prediction:
    """One pose of two keypoints, the first fused, and one keypoint object."""
    one = Prediction(
        bboxes=np.array([[1, 2, 30, 40.5]]),
        bbox_scores=np.array([0.9], np.float32),
        labels=np.array([0]),
        pose_keypoints=np.array([[[8.0, 9], [5, 6]]]),
        keypoints=np.array([[[3.0, 4], [5, 6]]]),
        keypoint_scores=np.array([[0.8, 0]]),
        keypoints_visible=np.array([[True, True]]),
        keypoint_objects=KeypointObjects(
            np.array([[2.0, 3, 4, 5]]), np.array([0.8], np.float32), np.array([1])
        ),
    )
    return replace(one, **changes)


def metainfo(names, categories) -> Metainfo:
    return Metainfo(categories, list(names), *([] for _ in range(5)))


def test_keypoints_with_a_score_are_fused():
    np.testing.assert_array_equal(prediction().keypoints_fused, [[True, False]])


def test_dict_has_every_number_in_order():
    categories = [dict(name='cat', keypoint_ids=[0, 1])]
    found = prediction().to_dict('x/a.jpg', (120, 90), metainfo(['nose', 'tail'], categories))
    expected = {
        'version': 1,
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
        bboxes=np.ones((2, 4)),
        bbox_scores=np.array([0.9, 0.8]),
        labels=np.array([1, 0]),
        pose_keypoints=np.zeros((2, 3, 2)),
        keypoints=np.arange(12.0).reshape(2, 3, 2),
        keypoint_scores=np.array([[0, 0.5, 0], [0, 0, 0]]),
        keypoints_visible=np.array([[False, True, True], [True, False, False]]),
    )
    names = ['cat/nose', 'car/hood', 'car/wheel']
    categories = [dict(name='cat', keypoint_ids=[0]), dict(name='car', keypoint_ids=[1, 2])]
    found = two.to_dict('a.jpg', (120, 90), metainfo(names, categories))
    assert found['keypoint_names'] == {'cat': ['cat/nose'], 'car': ['car/hood', 'car/wheel']}
    car, cat = found['poses']
    assert (car['category'], cat['category']) == ('car', 'cat')
    assert (car['keypoints'], cat['keypoints']) == ([[2, 3, 0.5], [4, 5, 0]], [[6, 7, 0]])
    assert (car['fused'], cat['fused']) == ([True, False], [False])
    assert found['keypoint_objects'][0]['type'] == 'car/hood'


def test_numbers_are_rounded():
    third = prediction(bboxes=np.full((1, 4), 1 / 3))
    found = third.to_dict('a', (1, 1), metainfo('ab', [dict(name='c', keypoint_ids=[0, 1])]))
    assert found['poses'][0]['bbox'] == [0.3333] * 4


def test_dict_of_no_poses_is_empty():
    nobody = prediction(keypoint_objects=KeypointObjects(*np.zeros((3, 0))))[:0]
    found = nobody.to_dict('a', (9, 9), metainfo('ab', [dict(name='c', keypoint_ids=[0, 1])]))
    assert found['poses'] == found['keypoint_objects'] == []


def two_poses() -> Prediction:
    one = prediction()
    poses = {
        k: np.concatenate((v, v * 2)).astype(v.dtype)
        for k, v in vars(one).items()
        if isinstance(v, np.ndarray)
    }
    return replace(one, **poses | dict(labels=np.array([0, 1])))


@pytest.mark.parametrize('index', [1, -1, [1], slice(1, None), np.array([False, True])])
def test_an_index_selects_poses_and_keeps_the_keypoint_objects(index):
    two = two_poses()
    second = two[index]
    assert (len(two), len(second)) == (2, 1)
    for name in ('bboxes', 'bbox_scores', 'labels', 'keypoints', 'keypoint_scores'):
        np.testing.assert_array_equal(getattr(second, name), getattr(two, name)[1:])
    assert second.keypoint_objects is two.keypoint_objects


def test_track_ids_go_with_their_poses_and_into_the_dict():
    tracked = replace(two_poses(), track_ids=np.array([7, 3]))
    assert tracked[1].track_ids.tolist() == [3]
    categories = [dict(name='cat', keypoint_ids=[0, 1]), dict(name='dog', keypoint_ids=[])]
    found = tracked.to_dict('a', (9, 9), metainfo('ab', categories))
    assert [pose['track_id'] for pose in found['poses']] == [7, 3]


def test_poses_before_fusion_have_the_keypoints_of_the_pose_objects():
    before = prediction().before_fusion()
    np.testing.assert_array_equal(before.keypoints, prediction().pose_keypoints)
    assert not before.keypoints_fused.any()


def test_supervision_gets_the_poses():
    supervision = pytest.importorskip('supervision', reason='the package supervision is optional')
    hidden = np.array([[True, True], [True, False]])
    found = replace(two_poses(), keypoints_visible=hidden).to_supervision()
    assert isinstance(found, supervision.KeyPoints)
    np.testing.assert_array_equal(found.xy, two_poses().keypoints)
    np.testing.assert_array_equal(found.class_id, [0, 1])
    # The score of the keypoint object, or that of the pose if none was fused.
    np.testing.assert_allclose(found.keypoint_confidence, [[0.8, 0.9], [1.6, 1.8]], rtol=1e-6)
    np.testing.assert_allclose(found.detection_confidence, [0.9, 1.8], rtol=1e-6)
    np.testing.assert_array_equal(found.visible, hidden)
    np.testing.assert_array_equal(found.data['fused'], [[True, False]] * 2)


def test_missing_supervision_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'supervision':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(InputError, match='pip install .supervision'):
        prediction().to_supervision()


def test_box_without_keypoints_has_empty_lists_and_its_category():
    ball = prediction(
        labels=np.array([1]),
        keypoint_scores=np.zeros((1, 2)),
        keypoints_visible=np.array([[False, False]]),
    )
    categories = [dict(name='cat', keypoint_ids=[0, 1]), dict(name='ball', keypoint_ids=[])]
    found = ball.to_dict('a.jpg', (120, 90), metainfo(['nose', 'tail'], categories))
    expected = dict(bbox=[1, 2, 30, 40.5], score=0.9, keypoints=[], fused=[], category='ball')
    assert found['poses'] == [expected]
    assert found['keypoint_names']['ball'] == []
