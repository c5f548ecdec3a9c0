# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from collections import Counter

import pytest

from kapao_mm.datasets.formats.grouping import (
    AMBIGUOUS,
    OUTSIDE,
    REPEATED,
    Box,
    Keypoint,
    LabeledImage,
    assign,
    join,
)
from kapao_mm.errors import InputError

LEFT = Box('l', 'person', (0, 0, 60, 100))
RIGHT = Box('r', 'person', (40, 0, 60, 100))  # both contain x from 40 to 60


def owners(*keypoints, boxes=(LEFT, RIGHT)):
    """Assigns keypoints given as name, x, y and parent; returns the boxes and the counts."""
    counts = Counter()
    found = assign(boxes, [Keypoint(*keypoint) for keypoint in keypoints], counts)
    return found, +counts


@pytest.mark.parametrize(
    ('keypoints', 'expected', 'counts'),
    [
        ([('nose', 10, 10)], [0], {'keypoints in a box': 1}),
        ([('nose', 50, 10, 'r')], [1], {'keypoints by their parent': 1}),
        ([('nose', 10, 10, 'r')], [1], {'keypoints by their parent': 1}),
        ([('nose', 10, 10, 'unknown')], [0], {'keypoints in a box': 1}),
        ([('nose', 50, 10)], [None], {AMBIGUOUS: 1}),
        ([('nose', 50, 10), ('nose', 10, 10)], [1, 0], {'keypoints in a box': 2}),
        ([('nose', 50, 10), ('eye', 10, 10)], [None, 0], {AMBIGUOUS: 1, 'keypoints in a box': 1}),
        ([('nose', 50, 10), ('nose', 55, 10)], [None, None], {AMBIGUOUS: 2}),
        ([('nose', 10, 10), ('nose', 20, 10)], [None, None], {REPEATED: 2}),
        (
            [('nose', 10, 10), ('nose', 30, 10, 'l')],
            [None, 0],
            {REPEATED: 1, 'keypoints by their parent': 1},
        ),
        ([('nose', 105, 10)], [1], {'keypoints close to a box': 1}),
        ([('nose', 150, 10)], [None], {OUTSIDE: 1}),
        ([('nose', 50, 105)], [None], {AMBIGUOUS: 1}),
    ],
)
def test_keypoint_is_assigned_by_parent_then_geometry_then_name(keypoints, expected, counts):
    assert owners(*keypoints) == (expected, counts)


def image(boxes, keypoints, name='a.jpg'):
    return LabeledImage(name, name, (100, 100), boxes, [Keypoint(*k) for k in keypoints])


def test_objects_have_the_keypoints_in_the_order_of_the_names():
    found, counts = join(
        [image([LEFT, RIGHT], [('nose', 10, 20), ('eye', 90, 30)])],
        ['person'],
        ['eye', 'nose'],
        [],
        False,
    )
    first, second = found['annotations']
    assert first['keypoints'] == [0, 0, 0, 10, 20, 2]
    assert second['keypoints'] == [90, 30, 2, 0, 0, 0]
    assert (second['bbox'], second['num_keypoints'], second['image_id']) == ([40, 0, 60, 100], 1, 1)
    assert (counts['images'], counts['objects']) == (1, 2)


def test_category_has_the_keypoints_that_were_used_on_it():
    ball = Box('b', 'ball', (80, 80, 10, 10))
    dog = Box('d', 'dog', (70, 0, 20, 20))
    rows = [image([LEFT, dog, ball], [('nose', 10, 20), ('tail', 75, 10)])]
    found, _ = join(rows, ['person', 'dog', 'ball'], ['nose', 'tail'], [], False)
    keypoints = {c['name']: c['keypoints'] for c in found['categories']}
    assert keypoints == {'person': ['nose'], 'dog': ['tail'], 'ball': []}
    assert [a['keypoints'] for a in found['annotations']] == [[10, 20, 2], [75, 10, 2], []]


def test_boxes_without_keypoints_are_no_candidates():
    helmet = Box('h', 'helmet', (0, 0, 30, 30))
    rows = [image([LEFT, helmet], [('nose', 10, 20)])]
    found, counts = join(rows, ['person', 'helmet'], ['nose'], ['helmet'], False)
    assert [a['num_keypoints'] for a in found['annotations']] == [1, 0]
    assert not counts[AMBIGUOUS]
    assert join(rows, ['person', 'helmet'], ['nose'], [], False)[1][AMBIGUOUS] == 1


def test_keypoints_without_any_box_get_one():
    rows = [image([], [('nose', 10, 20), ('eye', 30, 40)])]
    found, counts = join(rows, [], ['nose', 'eye'], [], False)
    (annotation,) = found['annotations']
    assert annotation['bbox'] == [8, 18, 24, 24]
    assert found['categories'][0]['name'] == 'object'
    assert counts['boxes made around keypoints'] == 1


def test_keypoints_of_several_objects_without_boxes_are_left_out():
    rows = [image([], [('nose', 10, 20), ('nose', 30, 40)])]
    found, counts = join(rows, ['person'], ['nose'], [], False)
    assert (found['annotations'], counts[OUTSIDE]) == ([], 2)


def test_box_without_an_area_is_left_out():
    flat = Box('f', 'person', (0, 0, 60, 0))
    found, counts = join([image([flat, LEFT], [])], ['person'], ['nose'], [], False)
    assert (len(found['annotations']), counts['boxes without an area (left out)']) == (1, 1)


def test_strict_conversion_stops_at_a_keypoint_that_is_not_clear():
    rows = [image([LEFT], [('nose', 1, 1)]), image([LEFT, RIGHT], [('nose', 50, 1)], 'b.jpg')]
    with pytest.raises(InputError, match=r'^b\.jpg: keypoints that may belong to several boxes'):
        join(rows, ['person'], ['nose'], [], True)


def test_unknown_category_without_keypoints_is_refused():
    with pytest.raises(InputError, match="no box is a 'bal'; boxes: person, ball"):
        join([], ['person', 'ball'], [], ['bal'], False)
