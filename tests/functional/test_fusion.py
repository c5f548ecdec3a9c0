# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kapao_mm.functional.fusion import fuse, fuse_categories


@st.composite
def crowds(draw):
    num_poses, num_objects = draw(st.integers(0, 12)), draw(st.integers(0, 25))
    places = st.floats(0, 200, width=32)
    scores = st.floats(0, 1, width=16)
    return (
        draw(arrays(np.float32, (num_poses, 3, 2), elements=places)),
        draw(arrays(np.float32, num_poses, elements=scores)),
        draw(arrays(np.float32, (num_objects, 2), elements=places)),
        draw(arrays(np.float32, num_objects, elements=scores)),
        draw(arrays(np.int64, num_objects, elements=st.integers(0, 2))),
        draw(st.floats(0, 0.5)),
        draw(st.floats(0, 120)),
    )


@pytest.mark.slow
@settings(max_examples=3000)
@given(crowd=crowds())
def test_fusion_equals_the_algorithm_object_by_object(oracles, crowd):
    for ours, expected in zip(fuse(*crowd), oracles.fuse_by_object(*crowd), strict=True):
        np.testing.assert_array_equal(ours, expected)


@given(crowds())
def test_fusion_of_one_category_equals_the_algorithm(crowd):
    poses, scores, *centers, score_thr, distance = crowd
    categories = np.zeros(len(poses), int)
    ours = fuse_categories(poses, scores, categories, *centers, [3], score_thr, distance)
    for a, b in zip(ours, fuse(*crowd), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@given(crowds(), st.data())
def test_each_category_is_fused_as_if_it_were_alone(crowd, data):
    poses, scores, centers, object_scores, object_types, *thresholds = crowd
    categories = data.draw(arrays(np.int64, len(poses), elements=st.integers(0, 1)))
    keypoints, keypoint_scores = fuse_categories(
        poses, scores, categories, centers, object_scores, object_types, [1, 2], *thresholds
    )
    for category, types in enumerate(([0], [1, 2])):
        of_pose, of_object = categories == category, np.isin(object_types, types)
        expected = fuse(
            poses[of_pose],
            scores[of_pose],
            centers[of_object],
            object_scores[of_object],
            object_types[of_object],
            *thresholds,
        )
        np.testing.assert_array_equal(keypoints[of_pose][:, types], expected[0][:, types])
        np.testing.assert_array_equal(keypoint_scores[of_pose][:, types], expected[1][:, types])
        assert not keypoints[~of_pose][:, types].any()
        assert not keypoint_scores[~of_pose][:, types].any()


def fuse_objects(centers, scores, poses=((0, 0),), pose_scores=None, **thresholds):
    """Fuses keypoint objects of a single type."""
    pose_scores = [1.0] * len(poses) if pose_scores is None else pose_scores
    return fuse(
        np.array(poses, dtype=np.float32)[:, None],
        np.array(pose_scores),
        np.array(centers, dtype=np.float32).reshape(-1, 2),
        np.array(scores),
        np.zeros(len(centers), dtype=np.int64),
        **dict(score_thr=0.3, distance=50) | thresholds,
    )


def test_an_earlier_fusion_moves_the_location_that_is_compared():
    # From (0, 0) the second object is too far and stays so; from (40, 0) it would be near,
    # but the keypoint is taken by an object of higher score.
    keypoints, keypoint_scores = fuse_objects([(40, 0), (60, 0)], [0.9, 0.8])
    np.testing.assert_array_equal(keypoints[0, 0], (40, 0))
    assert keypoint_scores[0, 0] == 0.9
    # The first object moves pose 0 to (40, 0), so the second one's nearest is pose 1.
    keypoints, _ = fuse_objects([(40, 0), (1, 0)], [0.9, 0.8], poses=[(0, 0), (-10, 0)])
    np.testing.assert_array_equal(keypoints[:, 0], [(40, 0), (1, 0)])


def test_thresholds_are_exclusive():
    assert fuse_objects([(49.9, 0)], [0.9])[1].any()
    assert not fuse_objects([(50, 0)], [0.9])[1].any()
    assert not fuse_objects([(1, 0)], [0.9], pose_scores=[0.3])[1].any()


def test_a_distance_of_zero_switches_fusion_off():
    keypoints, keypoint_scores = fuse_objects([(0, 0)], [0.9], distance=0)
    np.testing.assert_array_equal(keypoints[0, 0], (0, 0))
    assert not keypoint_scores.any()


def test_fusion_does_not_change_its_arguments():
    poses = np.zeros((1, 1, 2))
    fuse(poses, np.ones(1), np.ones((1, 2)), np.ones(1), np.zeros(1, dtype=int), 0.3, 50)
    assert not poses.any()


def test_a_category_without_keypoints_leaves_the_fusion_of_others_as_it_is():
    poses = np.zeros((2, 1, 2))
    objects = np.full((1, 2), 3.0), np.array([0.9]), np.array([0])
    scores, labels = np.array([0.8, 0.9]), np.array([0, 1])
    keypoints, found = fuse_categories(poses, scores, labels, *objects, [1, 0], 0.3, 50)
    np.testing.assert_array_equal(keypoints, [[[3, 3]], [[0, 0]]])
    np.testing.assert_array_equal(found, [[0.9], [0]])
