# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.analysis.figures import write_dataset_figure
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.box_categories import find_box_categories
from kapao_mm.datasets.annotations.checks import fatal_faults
from kapao_mm.datasets.annotations.instances import gather_instances
from kapao_mm.datasets.annotations.reader import read_annotations
from kapao_mm.datasets.annotations.review import review
from kapao_mm.datasets.annotations.statistics import compute_statistics
from kapao_mm.evaluation.label_checks import label_faults


@pytest.fixture
def with_ball(coco_file):
    """Annotations of people, and of a ball in a category of its own without keypoints."""
    ball = {k: v for k, v in coco_file['annotations'][0].items() if 'keypoints' not in k}
    coco_file['annotations'].append(ball | dict(id=99, category_id=7))
    coco_file['categories'].append(dict(id=7, name='ball'))
    return coco_file


@pytest.fixture
def metainfo(triples):
    """People with keypoints, and balls without."""
    return read_metainfo(dict(dataset_name='both', categories=dict(triple=triples, ball={})))


@pytest.fixture
def read(tmp_path):
    """Makes a function that writes annotations and reads them."""

    def read(content):
        (tmp_path / 'a.json').write_text(json.dumps(content))
        return read_annotations(tmp_path / 'a.json')

    return read


@pytest.mark.parametrize('change', [{}, dict(keypoints=[]), dict(keypoints=None)])
def test_annotation_of_a_box_category_is_read_with_no_keypoints(with_ball, metainfo, read, change):
    with_ball['annotations'][-1] |= change
    content = read(with_ball)
    assert find_box_categories(content) == {7}
    assert content['annotations'][-1]['keypoints'] == []
    assert not fatal_faults(content, metainfo) + label_faults(content, metainfo)


def test_area_of_a_box_category_is_not_needed(with_ball, metainfo, read):
    del with_ball['annotations'][-1]['area']
    assert not label_faults(read(with_ball), metainfo)


def test_category_is_no_box_category_if_it_or_an_annotation_has_keypoints(with_ball):
    with_ball['categories'][-1]['keypoints'] = ['a']
    assert find_box_categories(with_ball) == set()
    del with_ball['categories'][-1]['keypoints']
    with_ball['annotations'][-1]['keypoints'] = [1, 2, 0]
    assert find_box_categories(with_ball) == set()


def test_file_without_any_keypoints_has_no_box_categories(with_ball, metainfo, read):
    for entry in (*with_ball['annotations'], *with_ball['categories']):
        entry.pop('keypoints', None)
    content = read(with_ball)
    assert find_box_categories(content) == set()
    assert "annotations without 'keypoints'" in str(fatal_faults(content, metainfo)[0])


def test_keypoints_of_a_category_that_the_metainfo_describes_without_are_a_fault(
    with_ball, metainfo, read
):
    with_ball['annotations'][-1]['keypoints'] = [1, 2, 2]
    (fault,) = fatal_faults(read(with_ball), metainfo)
    assert str(fault).startswith("annotations with 1 keypoints, the metainfo of 'ball' has 0: 99")


def test_box_category_is_not_mixed_into_the_poses_of_a_single_category(with_ball, triples, read):
    fault = fatal_faults(read(with_ball), read_metainfo(triples))[0]
    assert 'categories without keypoints ball, but the metainfo has one category' in str(fault)
    assert '--category' in str(fault)


def test_review_statistics_and_figure_count_boxes_apart(with_ball, metainfo, read, tmp_path):
    content = read(with_ball)
    instances = gather_instances(content, metainfo)
    assert instances.only_box.tolist() == [False] * (len(instances.ids) - 1) + [True]
    assert not np.any(instances.visible[-1])
    found = review(content, metainfo, instances)
    assert not any('without labeled keypoints' in issue.what for issue in found)
    statistics = compute_statistics(metainfo, instances, len(content['images']), 64)
    assert (statistics['only_boxes'], statistics['without_keypoints']) == (1, 0)
    assert statistics['of_category']['ball'] == 1
    write_dataset_figure(tmp_path / 'a.png', 'a', metainfo, instances, statistics)
