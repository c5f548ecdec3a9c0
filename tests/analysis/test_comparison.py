# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.analysis.comparison import compare_objects
from kapao_mm.structures import Detections, KeypointObjects, PoseObjects

POSES, KEYPOINTS = Detections._fields


@pytest.fixture
def objects():
    rng = np.random.default_rng(0)
    return Detections(
        PoseObjects(
            bboxes=rng.uniform(0, 100, (4, 4)),
            scores=np.array([0.9, 0.8, 0.7, 0.7]),
            labels=np.array([0, 1, 0, 1]),
            keypoints=rng.uniform(0, 100, (4, 3, 2)),
        ),
        KeypointObjects(
            bboxes=rng.uniform(0, 100, (3, 4)),
            scores=np.array([0.9, 0.8, 0.7]),
            labels=np.array([2, 0, 0]),
        ),
    )


def take(objects, poses, keypoint_objects):
    """Returns the objects at indices or slices."""
    return Detections(
        PoseObjects(*(values[poses] for values in objects.pose_objects)),
        KeypointObjects(*(values[keypoint_objects] for values in objects.keypoint_objects)),
    )


def changed(objects, kind, name, index, by):
    part = getattr(objects, kind)
    values = getattr(part, name).copy()
    values[index] += by
    return objects._replace(**{kind: part._replace(**{name: values})})


def test_the_same_objects_in_another_order_do_not_differ(objects):
    assert compare_objects(take(objects, [3, 1, 0, 2], [2, 0, 1]), objects) == (0, 0)


@pytest.mark.parametrize(
    ('kind', 'name'), [(POSES, 'bboxes'), (POSES, 'keypoints'), (KEYPOINTS, 'bboxes')]
)
def test_positions_differ(objects, kind, name):
    found = changed(objects, kind, name, (2, -1), 0.25)
    assert compare_objects(found, objects) == pytest.approx((0.25, 0))


@pytest.mark.parametrize('kind', Detections._fields)
def test_scores_differ(objects, kind):
    found = changed(objects, kind, 'scores', 1, -0.1)
    assert compare_objects(found, objects) == pytest.approx((0, 0.1))


@pytest.mark.parametrize('kind', Detections._fields)
def test_an_object_of_another_class_is_another_object(objects, kind):
    assert compare_objects(changed(objects, kind, 'labels', 0, 5), objects).position == np.inf


def test_a_missing_object_and_one_found_twice_are_differences(objects):
    for found in (take(objects, slice(None), [0, 1]), take(objects, [0, 1, 2, 1], slice(None))):
        assert compare_objects(found, objects) == (np.inf, np.inf)


def test_no_objects_do_not_differ_from_no_objects(objects):
    nothing = take(objects, slice(0), slice(0))
    assert compare_objects(nothing, nothing) == (0, 0)


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        *((POSES, name) for name in ('bboxes', 'keypoints', 'scores')),
        *((KEYPOINTS, name) for name in ('bboxes', 'scores')),
    ],
)
def test_nan_is_a_difference(objects, kind, name):
    spoiled = changed(objects, kind, name, 1, np.nan)
    for found, expected in ((spoiled, objects), (objects, spoiled), (spoiled, spoiled)):
        assert max(compare_objects(found, expected)) == np.inf
