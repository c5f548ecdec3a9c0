# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.analysis.comparison import compare_objects
from kapao_mm.functional.prediction import DetectedObjects


@pytest.fixture
def objects():
    rng = np.random.default_rng(0)
    return DetectedObjects(
        boxes=rng.uniform(0, 100, (4, 4)),
        scores=np.array([0.9, 0.8, 0.7, 0.7]),
        categories=np.array([0, 1, 0, 1]),
        keypoints=rng.uniform(0, 100, (4, 3, 2)),
        point_boxes=rng.uniform(0, 100, (3, 4)),
        point_scores=np.array([0.9, 0.8, 0.7]),
        point_types=np.array([2, 0, 0]),
    )


def changed(objects, name, index, by):
    values = getattr(objects, name).copy()
    values[index] += by
    return objects._replace(**{name: values})


def test_the_same_objects_in_another_order_do_not_differ(objects):
    order, point_order = [3, 1, 0, 2], [2, 0, 1]
    swapped = DetectedObjects(
        *(field[order] for field in objects[:4]), *(field[point_order] for field in objects[4:])
    )
    assert compare_objects(swapped, objects) == (0, 0)


@pytest.mark.parametrize('name', ['boxes', 'keypoints', 'point_boxes'])
def test_the_largest_difference_of_positions_is_returned(objects, name):
    found = changed(objects, name, (2, -1), 0.25)
    assert compare_objects(found, objects) == pytest.approx((0.25, 0))


@pytest.mark.parametrize('name', ['scores', 'point_scores'])
def test_the_largest_difference_of_scores_is_returned(objects, name):
    assert compare_objects(changed(objects, name, 1, -0.1), objects) == pytest.approx((0, 0.1))


@pytest.mark.parametrize('name', ['categories', 'point_types'])
def test_objects_of_different_classes_do_not_match(objects, name):
    assert compare_objects(changed(objects, name, 0, 5), objects).position == np.inf


def test_missing_and_duplicate_objects_are_differences(objects):
    points = [field[:2] for field in objects[4:]]
    assert compare_objects(DetectedObjects(*objects[:4], *points), objects) == (np.inf, np.inf)
    twice = DetectedObjects(*(field[[0, 1, 2, 1]] for field in objects[:4]), *objects[4:])
    assert compare_objects(twice, objects) == (np.inf, np.inf)


def test_two_empty_detections_do_not_differ(objects):
    nothing = DetectedObjects(*(field[:0] for field in objects))
    assert compare_objects(nothing, nothing) == (0, 0)


@pytest.mark.parametrize('name', ['boxes', 'keypoints', 'point_boxes', 'scores', 'point_scores'])
def test_nan_is_an_infinite_difference(objects, name):
    broken = changed(objects, name, 1, np.nan)
    for found, expected in ((broken, objects), (objects, broken), (broken, broken)):
        assert max(compare_objects(found, expected)) == np.inf
