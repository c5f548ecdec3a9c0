# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.new_metainfo import (
    LEFT,
    MIDDLE,
    RIGHT,
    Category,
    can_flip,
    describe,
    find_categories,
    make_metainfo,
    model_categories,
)
from kapao_mm.errors import InputError


def annotation(number, category=1, count=2, **more):
    keypoints = [0, 0, 2] * count
    return dict(id=number, image_id=1, category_id=category, keypoints=keypoints, **more)


def content(*annotations, **category):
    categories = [dict(id=1, name='cow', **category), dict(id=2, name='unused')]
    return dict(categories=categories, annotations=list(annotations))


def test_category_has_names_links_from_0_and_annotations():
    entries = annotation(5), annotation(6)
    (found,) = find_categories(content(*entries, keypoints=['a', 'b'], skeleton=[[2, 1]]), 'x.json')
    assert found == Category('cow', ['a', 'b'], True, [(1, 0)], list(entries))


def test_missing_names_are_numbers():
    (found,) = find_categories(content(annotation(5, count=3)), 'x.json')
    assert found.keypoints == ['keypoint_0', 'keypoint_1', 'keypoint_2']
    assert not found.named


@pytest.mark.parametrize('link', [[0, 1], [3, 1]])
def test_link_to_unknown_keypoint_is_refused(link):
    file = content(annotation(5), keypoints=['a', 'b'], skeleton=[[1, 2], link])
    with pytest.raises(InputError, match=rf"'cow' of x.json has a link \[{link[0]}, 1\].* 1 to 2"):
        find_categories(file, 'x.json')


@pytest.mark.parametrize(
    'file, message',
    [
        (content(), 'x.json has no annotations'),
        (
            content(annotation(5), annotation(6, count=3)),
            "6 of category 'cow' .* 3 keypoints, not 2",
        ),
        (content(annotation(5), keypoints=['a']), "5 of category 'cow' .* 2 keypoints, not 1"),
        (content(annotation(5), annotation(6, count=0)), "6 of category 'cow' .* 0 keypoints"),
        (content(annotation(5), keypoints=['a', 'a']), 'several keypoints named a'),
    ],
)
def test_category_that_cannot_be_described_is_refused(file, message):
    with pytest.raises(InputError, match=message):
        find_categories(file, 'x.json')


def test_metainfo_is_read_by_mmpose():
    names = ['nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear']
    links = [(0, 1), (1, 3), (2, 4), (1, 2)]
    info = make_metainfo(Category('cow', names, True, links, []), [0.1, 0.2, 0.3, 0.4, 0.5])
    parsed = read_metainfo(info)
    assert parsed['dataset_name'] == 'cow'
    assert list(parsed['keypoint_name2id']) == names
    assert parsed['flip_indices'] == [0, 2, 1, 4, 3]
    assert parsed['skeleton_links'] == links
    np.testing.assert_allclose(parsed['sigmas'], [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_array_equal(parsed['dataset_keypoint_weights'], np.ones(5))
    assert parsed['keypoint_colors'].tolist() == [MIDDLE, LEFT, RIGHT, LEFT, RIGHT]
    assert parsed['skeleton_link_colors'].tolist() == [MIDDLE, LEFT, RIGHT, MIDDLE]


def test_keypoints_without_sides_have_different_colors():
    info = make_metainfo(Category('cow', list('abc'), True, [], []), [0.1] * 3)
    colors = [tuple(keypoint['color']) for keypoint in info['keypoint_info'].values()]
    assert len(set(colors)) == 3


@pytest.mark.parametrize(
    ('names', 'flips', 'lines'),
    [
        (['eye_l', 'eye_r'], True, ['left/right pairs: eye_l - eye_r']),
        (['rim', 'hub'], False, ['left/right pairs: none', 'no HorizontalFlip']),
        (['eye_l', 'eye_r', 'left_ear'], False, ['without their other side: left_ear', 'no Hor']),
    ],
)
def test_images_are_flipped_only_if_all_sides_have_partners(names, flips, lines):
    category = Category('cow', names, True, [], [])
    assert can_flip(category) == flips
    assert all(line in describe(category) for line in lines)
    assert ('no HorizontalFlip' in describe(category)) != flips
    assert 'the file has no names of keypoints' in describe(category._replace(named=False))


@pytest.mark.parametrize('keypoints', [{}, dict(keypoints=None), dict(keypoints=[])])
def test_category_without_keypoints_has_boxes_only(keypoints):
    ball = dict(id=7, image_id=1, category_id=2) | keypoints
    cow, found = find_categories(content(annotation(5), ball), 'x.json')
    assert found == Category('unused', [], False, [], [ball])
    assert describe(found) == 'unused: 1 annotations, no keypoints: boxes only'
    assert can_flip(found)
    assert model_categories([cow, found], 'farm') == [cow, found]


def test_boxes_alone_are_refused_with_the_name_of_a_detector():
    found = find_categories(content(annotation(5, count=0)), 'x.json')
    with pytest.raises(InputError, match='cow: no category has keypoints.*MMDetection'):
        model_categories(found, 'farm')
