# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy
import json

import pytest

from kapao_mm.errors import InputError
from kapao_mm.evaluation import KAPAOMetric
from kapao_mm.evaluation.label_checks import label_faults

NAN, INF = float('nan'), float('inf')


@pytest.fixture
def content(two_categories):
    return copy.deepcopy(two_categories[0])


@pytest.fixture
def faults(content, two_categories, tmp_path):
    """Makes a function that returns the faults of a file, which the metric must refuse."""

    def find(**options):
        found = list(map(str, label_faults(content, two_categories[1], **options)))
        path = tmp_path / 'labels.json'
        path.write_text(json.dumps(content))
        metric = KAPAOMetric(ann_file=str(path), **options)
        if found:
            with pytest.raises(InputError) as error:
                metric.dataset_meta = two_categories[1]
            assert f'{path}: {found[0]}' in str(error.value)
        else:
            metric.dataset_meta = two_categories[1]
        return found

    return find


@pytest.mark.parametrize('use_area', [True, False])
@pytest.mark.parametrize('iou_type', ['keypoints', 'keypoints_crowd'])
def test_correct_labels_have_no_faults(faults, use_area, iou_type):
    assert not faults(use_area=use_area, iou_type=iou_type)


@pytest.mark.parametrize('value', [NAN, INF, 0, -1, 1e11, '', 'nan', 'large', [], True])
def test_invalid_area_is_found(content, faults, value):
    content['annotations'][7]['area'] = value
    (found,) = faults()
    assert found.startswith("annotations whose 'area' is not a number") and ': 7; ' in found


def test_unused_area_is_not_checked(content, faults):
    content['annotations'][7]['area'] = -1
    assert not faults(use_area=False)
    del content['annotations'][7]['area']
    assert not faults(use_area=False)


def test_missing_areas_are_found_if_they_are_used(content, two_categories):
    for i in (3, 5):
        del content['annotations'][i]['area']
    (found,) = map(str, label_faults(content, two_categories[1]))
    assert found.startswith("annotations without 'area', which OKS needs: 3, 5; add it, or have it")
    assert 'use_area=False' in found


def test_area_larger_than_the_image_is_found(content, faults):
    content['annotations'][7]['area'] = 600 * 600
    assert not faults()
    content['annotations'][7]['area'] += 1
    (found,) = faults()
    assert found.startswith("annotations whose 'area' is larger than their image: 7")
    content['annotations'][7]['bbox'] = [-300, -300, 1200, 1200]
    assert not faults()


def test_boxes_without_area_are_found_if_it_is_used(content, faults):
    content['annotations'][7]['bbox'][2] = 0
    assert not faults()
    (found,) = faults(use_area=False)
    assert found.startswith("annotations whose 'bbox' has no area, which OKS needs with use_area")
    content['annotations'][7]['keypoints'][2::3] = [0, 0]
    assert not faults(use_area=False)  # without keypoints there is no OKS


def test_negative_widths_and_heights_are_found(content, faults):
    content['annotations'][7]['bbox'][2:] = [-40, -40]  # their product is above 0
    for use_area in (True, False):
        assert 'negative width or height: 7' in faults(use_area=use_area)[0]


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('iscrowd', 'yes', "annotations whose 'iscrowd' is not 0 or 1: 7; write 1 for a region"),
        ('iscrowd', 2, "annotations whose 'iscrowd' is not 0 or 1: 7"),
        ('iscrowd', NAN, "annotations whose 'iscrowd' is not 0 or 1: 7"),
        ('iscrowd', [], "annotations whose 'iscrowd' is not 0 or 1: 7"),
        ('keypoints', [1, 2, 2, NAN, 5, 2], 'not a list of finite numbers: 7'),
        ('keypoints', [1, 2, 2, 1e30, 5, 2], 'not a list of finite numbers: 7'),
        ('keypoints', [1, 2, 2], "with 1 keypoints, the metainfo of 'wheel' has 2: 7"),
        ('bbox', [1, 2, NAN, 4], "'bbox' is not four finite numbers: 7"),
        ('bbox', None, "annotations without 'bbox': 7"),
        ('image_id', 77, 'annotations of images that the file does not list: 7'),
        ('category_id', [5], "'category_id' is none of the file's categories: 7"),
        ('id', None, 'annotations whose id is not a whole number: annotations[7]'),
    ],
)
def test_values_that_the_evaluation_reads_are_checked(content, faults, key, value, message):
    content['annotations'][7][key] = value
    assert message in faults()[0]


def test_images_without_crowd_index_are_found_if_it_is_used(content, faults):
    del content['images'][3]['crowdIndex']
    content['images'][4]['crowdIndex'] = 'hard'
    assert not faults()
    (found,) = faults(iou_type='keypoints_crowd')
    assert found.startswith("images without a number 'crowdIndex'") and ': 3, 4; ' in found


@pytest.mark.parametrize('value', [3, '59', [None], [[5]], {}, ['5']])
def test_invalid_ids_of_unlabeled_categories_are_found(content, faults, value):
    content['images'][3]['not_exhaustive_category_ids'] = value
    (found,) = faults()
    assert found.startswith("images whose 'not_exhaustive_category_ids' is not a list of ids: 3;")
