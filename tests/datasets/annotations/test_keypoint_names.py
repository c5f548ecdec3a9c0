# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy
import json

import numpy as np
import pytest
from mmpose.registry import DATASETS

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.checks import categories_by_id, fatal_faults
from kapao_mm.datasets.annotations.keypoint_names import find_order, order_keypoints
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric


@pytest.mark.parametrize(
    ('found', 'expected', 'order'),
    [
        (['a', 'b', 'c'], ['a', 'b', 'c'], [0, 1, 2]),
        (['a', 'b', 'c'], ['c', 'a', 'b'], [2, 0, 1]),
        (['left_eye', 'right_front_paw'], ['R_F_Paw', 'L_Eye'], [1, 0]),
        (['leftEye', 'root_of_tail'], ['Root of tail', 'left eye'], [1, 0]),
        (['head', 'neck'], ['neck', 'top_head'], [1, 0]),
        (['head', 'top_head'], ['top_head', 'head'], [1, 0]),
        (['eye1', 'eye2'], ['eye_2', 'eye_1'], [1, 0]),
        (['Eye', 'eye'], ['eye', 'Eye'], [1, 0]),
        (['a', 'b'], ['a', 'c'], None),
        (['a', 'a'], ['a', 'b'], None),
        (['a'], ['a', 'b'], None),
    ],
)
def test_names_are_found_in_any_order_and_usual_spelling(found, expected, order):
    assert find_order(found, expected) == order


def shuffled(content: dict, order: list[int]) -> dict:
    """Returns the content as a tool writes it that lists the keypoints in another order."""
    content = copy.deepcopy(content)
    for category in content['categories']:
        category['keypoints'] = [category['keypoints'][i] for i in order]
    for annotation in content['annotations']:
        triples = np.reshape(annotation['keypoints'], (-1, 3))
        annotation['keypoints'] = triples[order].ravel().tolist()
    return content


def test_keypoints_in_another_order_are_reordered_and_counted(coco_file, triples):
    metainfo, expected = read_metainfo(triples), copy.deepcopy(coco_file)
    content = shuffled(coco_file, [2, 0, 1])
    assert not fatal_faults(content, metainfo)
    known = categories_by_id(content, metainfo)
    (issue,) = order_keypoints(content, metainfo, known)
    assert issue.counted() == (
        '3 annotations whose category names the keypoints in another order than the metainfo '
        '(11, 12, 13); put into the order of the metainfo'
    )
    assert content == expected
    assert not order_keypoints(content, metainfo, known)  # a second time changes nothing


def test_keypoints_of_the_category_with_another_order_are_reordered(coco_file, two_categories):
    coco_file['categories'].append(dict(id=5, name='disc', keypoints=['hub']))
    coco_file['annotations'][0] |= dict(category_id=5, keypoints=[9, 8, 2])
    coco_file['categories'][0]['keypoints'] = ['right_end', 'top', 'left_end']
    metainfo = read_metainfo(two_categories)
    (issue,) = order_keypoints(coco_file, metainfo, categories_by_id(coco_file, metainfo))
    assert issue.ids == [12, 13]
    assert coco_file['annotations'][0]['keypoints'] == [9, 8, 2]
    assert coco_file['annotations'][1]['keypoints'] == [5, 20, 1, 0, 0, 0, 10, 10, 2]


@pytest.mark.parametrize(
    ('names', 'example'),
    [
        (['top', 'left_end', 'tail'], 'tail instead of right_end'),
        (['top', 'left_end'], '2 names for 3 keypoints'),
        (['top', 'left_end', 'left_end'], 'left_end twice'),
    ],
)
def test_other_names_are_an_error_if_the_category_has_annotations(
    coco_file, triples, names, example
):
    metainfo = read_metainfo(triples)
    coco_file['categories'].append(dict(id=9, name='other', keypoints=names))
    assert not fatal_faults(coco_file, metainfo)
    coco_file['annotations'][2]['category_id'] = 9
    (fault,) = fatal_faults(coco_file, metainfo)
    what = f'annotations whose category names other keypoints than the metainfo ({example}): 13'
    assert str(fault).startswith(what)


def test_category_without_names_uses_those_of_the_metainfo(coco_file, triples):
    metainfo = read_metainfo(triples)
    for names in ([], None):
        coco_file['categories'][0]['keypoints'] = names
        assert not fatal_faults(coco_file, metainfo)
        assert not order_keypoints(coco_file, metainfo, categories_by_id(coco_file, metainfo))


@pytest.fixture
def write(tmp_path):
    def write(content, name='a.json'):
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize('test_mode', [False, True])
def test_dataset_reads_keypoints_in_the_order_of_the_metainfo(
    coco_file, triples, write, log, test_mode
):
    def load(content):
        config = dict(type='KeypointDataset', metainfo=triples, test_mode=test_mode, pipeline=[])
        return DATASETS.build(config | dict(ann_file=write(content), data_prefix=dict(img='.')))

    expected = load(coco_file)
    assert 'another order' not in log.text
    found = load(shuffled(coco_file, [1, 2, 0]))
    assert log.text.count('3 annotations whose category names the keypoints in another order') == 1
    for key in ('keypoints', 'keypoints_visible'):
        np.testing.assert_array_equal(found[0][key], expected[0][key])
    coco_file['categories'][0]['keypoints'][0] = 'tip'
    with pytest.raises(InputError, match=r'a\.json: .* \(tip instead of top\): 11, 12, 13; name'):
        load(coco_file)


def test_evaluation_compares_keypoints_in_the_order_of_the_metainfo(coco_file, triples, write, log):
    metric = KAPAOMetric(ann_file=write(shuffled(coco_file, [1, 2, 0])))
    metric.dataset_meta = read_metainfo(triples)
    assert [a['keypoints'] for a in metric.coco.dataset['annotations']] == [
        a['keypoints'] for a in coco_file['annotations']
    ]
    assert log.text.count('put into the order of the metainfo') == 1
    coco_file['categories'][0]['keypoints'][0] = 'tip'
    metric = KAPAOMetric(ann_file=write(coco_file))
    with pytest.raises(InputError, match='tip instead of top'):
        metric.dataset_meta = read_metainfo(triples)


def test_exported_validation_file_is_read_as_the_training_file(shared_dir):
    folder = shared_dir / 'data/exports/val_in_other_order'
    original = read_annotations(
        shared_dir / 'data/coco_subset/annotations/person_keypoints_val.json'
    )
    content = read_annotations(folder / 'val.json')
    metainfo = read_metainfo(dict(from_file='configs/_base_/datasets/coco.py'))
    (issue,) = order_keypoints(content, metainfo, categories_by_id(content, metainfo))
    assert len(issue.ids) == len(content['annotations'])
    expected = {a['id']: a['keypoints'] for a in original['annotations']}
    for annotation in content['annotations']:
        assert annotation['keypoints'] == expected[annotation['id']]
