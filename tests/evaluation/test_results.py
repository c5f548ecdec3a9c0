# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapao_mm.errors import InputError
from kapao_mm.evaluation import check_results, make_results, read_results, write_results

METAINFO = dict(
    categories=[dict(name='cat', keypoint_ids=[0]), dict(name='car', keypoint_ids=[1, 2])],
    CLASSES=[dict(id=4, name='cat'), dict(id=7, name='car'), dict(id=8, name='car')],
)
ANNOTATIONS = dict(images=[dict(id=1)], categories=METAINFO['CLASSES'], annotations=[])


def poses(labels, scores=None, dtype=np.float64):
    count = len(labels)
    return dict(
        keypoints=np.arange(count * 6, dtype=dtype).reshape(count, 3, 2) + 1 / 3,
        keypoint_scores=np.tile(np.array([0, 0.25, 0.5], dtype), (count, 1)),
        bboxes=np.tile(np.array([1, 2, 11, 22.00049], dtype), (count, 1)),
        bbox_scores=np.array(np.ones(count) if scores is None else scores, dtype),
        labels=np.array(labels, int),
    )


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_record_has_the_keypoints_and_the_first_id_of_its_category(dtype):
    found = make_results('a', poses([1, 0], [0.75, 0.1234567], dtype), METAINFO)
    assert found == [
        dict(
            image_id='a',
            category_id=4,
            keypoints=[6.333, 7.333, 1e-6],  # not fused
            bbox=[1, 2, 10, 20],
            score=pytest.approx(0.1234567, abs=1e-8),
        ),
        dict(
            image_id='a',
            category_id=7,
            keypoints=[2.333, 3.333, 0.25, 4.333, 5.333, 0.5],
            bbox=[1, 2, 10, 20],
            score=0.75,
        ),
    ]


def test_100_best_poses_of_each_category_are_kept():
    labels = [0] * 120 + [1] * 30
    scores = np.random.default_rng(0).permutation(150) / 150
    found = make_results(1, poses(labels, scores), METAINFO)
    kept = [[r['score'] for r in found if r['category_id'] == i] for i in (4, 7)]
    assert kept[0] == sorted(scores[:120].round(9), reverse=True)[:100]
    assert len(kept[1]) == 30


def test_poses_of_a_category_that_is_missing_in_the_file_are_left_out():
    metainfo = METAINFO | dict(CLASSES=[dict(id=7, name='car')])
    assert [r['category_id'] for r in make_results(1, poses([0, 1]), metainfo)] == [7]


@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), st.floats(0, 1))
def test_records_read_from_a_file_equal_the_written_ones(tmp_path_factory, numbers, score):
    given = poses([0, 1], [score, score])
    given['keypoints'][..., 0] = numbers
    records = make_results(1, given, METAINFO)
    path = tmp_path_factory.mktemp('results') / 'new/folder/a.json'
    write_results(records, path)
    assert read_results(path) == records
    assert abs(records[0]['keypoints'][0] - numbers[0]) <= 0.000501
    assert len(path.read_text().splitlines()) == 2  # one for each record
    assert ' ' not in path.read_text()


def test_file_without_records_is_an_empty_list(tmp_path):
    write_results([], tmp_path / 'a.json')
    assert json.loads((tmp_path / 'a.json').read_text()) == []


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, r'result file .*/a\.json: No such file or directory'),
        ('[{"image_id": 1', r'result file .*/a\.json is not JSON .*column'),
        ('{"annotations": []}', r'result file .*/a\.json has a dict instead of a list'),
    ],
)
def test_file_without_results_is_reported(tmp_path, text, message):
    path = tmp_path / 'a.json'
    if text:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_results(path)


def test_records_of_this_package_are_accepted():
    check_results(make_results(1, poses([0, 1]), METAINFO), 'x', ANNOTATIONS, METAINFO, boxes=True)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(score=None), r"has no 'score'"),
        (dict(keypoints=None), r"has no 'keypoints'"),
        (dict(bbox=None), r"has no 'bbox'; .*box_ap=False"),
        (dict(image_id=3), r'\(image 3\): the annotation file has no image with that id'),
        (dict(image_id='1'), r"\(image '1'\): the annotation file has no image with that id"),
        (dict(category_id=5), r'\(image 1\) has category_id 5, .* share only 4, 7, 8'),
        (dict(category_id=8), r'\(image 1\): keypoints has 3 numbers instead of 6'),
        (dict(keypoints=[1, 2]), r'\(image 1\): keypoints has 2 numbers instead of 3'),
        (dict(keypoints=[1, 2, 'x']), r'\(image 1\): keypoints holds .* not a finite number'),
        (dict(keypoints=7), r'\(image 1\): keypoints holds .* not a finite number'),
        (dict(bbox=[1, 2, 3]), r'\(image 1\): bbox has 3 numbers instead of 4'),
        (dict(score=float('nan')), r'\(image 1\): score holds .* not a finite number'),
        (dict(image_id=[1]), r'\(image \[1\]\): the annotation file has no image with that id'),
        (dict(image_id=True), r'\(image True\): the annotation file has no image with that id'),
        (dict(category_id={}), r'has category_id {}, but'),
        (dict(bbox=[1, 2, -3, 4]), r'bbox has a negative width or height'),
        (dict(keypoints=[1e300, 2, 1]), r'keypoints holds .* not a finite number'),
        (dict(keypoints=[True, 2, 1]), r'keypoints holds .* not a finite number'),
    ],
)
def test_unsuitable_record_is_reported(change, message):
    good = make_results(1, poses([0]), METAINFO)[0]
    bad = {key: value for key, value in (good | change).items() if value is not None}
    with pytest.raises(InputError, match=f'result 1 of a.json.*{message}'):
        check_results([good, bad], 'a.json', ANNOTATIONS, METAINFO, boxes=True)


def test_entry_that_is_not_a_record_is_reported():
    with pytest.raises(InputError, match='result 0 of a.json is not an object with image_id'):
        check_results([[1, 2]], 'a.json', ANNOTATIONS, METAINFO, boxes=True)


def test_boxes_are_optional_if_they_are_not_evaluated():
    record = make_results(1, poses([0]), METAINFO)[0]
    del record['bbox']
    check_results([record], 'a.json', ANNOTATIONS, METAINFO, boxes=False)


def test_boxes_that_are_not_evaluated_must_be_valid():
    """The area of a result is that of its box, if it has one."""
    record = make_results(1, poses([0]), METAINFO)[0] | dict(bbox='large')
    with pytest.raises(InputError, match='bbox holds something that is not a finite number'):
        check_results([record], 'a.json', ANNOTATIONS, METAINFO, boxes=False)
    check_results([record | dict(bbox=None)], 'a.json', ANNOTATIONS, METAINFO, boxes=False)


def test_result_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / 'a.json'
    write_results([], path)
    with pytest.raises(TypeError):
        write_results([dict(score=object())], path)
    assert json.loads(path.read_text()) == []
    with pytest.raises(InputError, match='a.json cannot be written to'):
        write_results([], path / 'b.json')


def test_record_of_a_category_without_keypoints_has_a_box_only():
    categories = [*METAINFO['categories'], dict(name='ball', keypoint_ids=[])]
    classes = [*METAINFO['CLASSES'], dict(id=20, name='ball')]
    metainfo = METAINFO | dict(categories=categories, CLASSES=classes)
    annotations = ANNOTATIONS | dict(categories=classes)
    (record,) = make_results(1, poses([2]), metainfo)
    assert record == dict(image_id=1, category_id=20, keypoints=[], bbox=[1, 2, 10, 20], score=1.0)
    check_results([record], 'a.json', annotations, metainfo, boxes=False)
    del record['keypoints']  # as detectors write it
    check_results([record], 'a.json', annotations, metainfo, boxes=False)
    for wrong, message in ((dict(bbox=None), "no 'bbox'$"), (dict(keypoints=[1] * 3), '3 numbers')):
        bad = {key: value for key, value in (record | wrong).items() if value is not None}
        with pytest.raises(InputError, match=message):
            check_results([bad], 'a.json', annotations, metainfo, boxes=False)
