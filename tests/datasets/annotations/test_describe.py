# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.describe import (
    LEFT,
    MIDDLE,
    RIGHT,
    Category,
    find_categories,
    left_right_pairs,
    lone_sides,
    make_metainfo,
    sigmas_of_two,
)
from kapao_mm.errors import InputError


def annotation(number, category=1, count=2, **more):
    keypoints = [0, 0, 2] * count
    return dict(id=number, image_id=1, category_id=category, keypoints=keypoints, **more)


def content(*annotations, **category):
    categories = [dict(id=1, name='cow', **category), dict(id=2, name='unused')]
    return dict(categories=categories, annotations=list(annotations))


@pytest.mark.parametrize(
    'left, right',
    [
        ('left_eye', 'right_eye'),
        ('eye_left', 'eye_right'),
        ('front_left_wheel', 'front_right_wheel'),
        ('LEFT EYE', 'right eye'),
        ('L_Eye', 'R_Eye'),
        ('eye-l', 'eye-r'),
        ('l1', 'r1'),
        ('leftEye', 'rightEye'),
        ('FrontLeftWheel', 'FrontRightWheel'),
        ('eyeleft', 'eyeright'),
        ('eyeL', 'eyeR'),
        ('lwrist', 'rwrist'),
        ('LWrist', 'RWrist'),
        ('links_l', 'links_r'),
        ('left_eye_left_corner', 'right_eye_right_corner'),
        ('L_R_Paw', 'R_R_Paw'),  # R for rear
        ('R_L', 'R_R'),
    ],
)
def test_names_that_differ_in_their_side_are_a_pair(left, right):
    assert left_right_pairs([right, 'nose', left]) == [(2, 0)]


@pytest.mark.parametrize(
    'names',
    [
        ['rim_top', 'rim_bottom', 'rim_side', 'sidewall_top', 'tread_inner'],
        ['left_eye', 'left_ear', 'right_knee'],
        ['light', 'bright', 'ring'],
        ['eye_l', 'eye_left', 'ear_r', 'nose_right'],
        ['tail', 'trail', 'snout'],
        ['l', 'left'],
    ],
)
def test_names_without_the_other_side_are_no_pair(names):
    assert left_right_pairs(names) == []


def test_the_corners_of_both_eyes_pair_as_a_mirror_shows_them():
    sides = ('left', 'right')
    names = [f'{eye}_eye_{corner}' for eye in sides for corner in sides]
    assert left_right_pairs(names) == [(0, 3), (1, 2)]


@given(st.lists(st.from_regex(r'[lrLR_a]{1,5}|(left|right)_?[ab]', fullmatch=True), unique=True))
def test_no_keypoint_has_two_partners(names):
    paired = [i for pair in left_right_pairs(names) for i in pair]
    assert len(paired) == len(set(paired))


def test_a_side_without_the_other_is_noticed():
    names = ['left_eye', 'right_eye', 'left_ear', 'ring', 'cleft', 'Right']
    assert lone_sides(names, left_right_pairs(names)) == ['left_ear', 'Right']


def test_a_category_has_its_names_links_from_0_and_annotations():
    entries = annotation(5), annotation(6)
    (found,) = find_categories(content(*entries, keypoints=['a', 'b'], skeleton=[[2, 1]]), 'x.json')
    assert found == Category('cow', ['a', 'b'], True, [(1, 0)], list(entries))


def test_names_that_the_file_lacks_are_numbers():
    (found,) = find_categories(content(annotation(5, count=3)), 'x.json')
    assert found.keypoints == ['keypoint_0', 'keypoint_1', 'keypoint_2']
    assert not found.named


@pytest.mark.parametrize('link', [[0, 1], [3, 1]])
def test_a_link_to_no_keypoint_is_an_error(link):
    file = content(annotation(5), keypoints=['a', 'b'], skeleton=[[1, 2], link])
    with pytest.raises(InputError, match=rf"'cow' of x.json has a link \[{link[0]}, 1\].* 1 to 2"):
        find_categories(file, 'x.json')


@pytest.mark.parametrize(
    'file, message',
    [
        (content(), 'x.json has no annotations'),
        (content(annotation(5, category=3)), 'annotation 5 of x.json has category_id 3'),
        (
            content(annotation(5), annotation(6, count=3)),
            "6 of category 'cow' .* 3 keypoints, not 2",
        ),
        (content(annotation(5), keypoints=['a']), "5 of category 'cow' .* 2 keypoints, not 1"),
        (content(annotation(5, count=0)), "annotation 5 of category 'cow' .* 0 keypoints"),
        (content(dict(annotation(5), keypoints=None)), '5 of .* 0 keypoints'),
        (content(annotation(5), keypoints=['a', 'a']), 'several keypoints named a'),
    ],
)
def test_what_cannot_be_described_is_an_error(file, message):
    with pytest.raises(InputError, match=message):
        find_categories(file, 'x.json')


def test_the_metainfo_is_one_that_mmpose_reads():
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


def test_without_sides_each_keypoint_has_its_own_colour():
    info = make_metainfo(Category('cow', list('abc'), True, [], []), [0.1] * 3)
    colors = [tuple(keypoint['color']) for keypoint in info['keypoint_info'].values()]
    assert len(set(colors)) == 3


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_sigmas_are_those_that_the_second_annotation_was_drawn_with(seed):
    rng = np.random.default_rng(seed)
    sigmas = rng.uniform(0.02, 0.1, 3)
    areas = rng.uniform(100, 10000, 1000)
    points = np.insert(rng.uniform(0, 500, (1000, 3, 2)), 2, 2, axis=2)
    # E[d^2] of the two coordinates is s^2 sigma^2
    scales = sigmas[:, None] * np.sqrt(areas / 2)[:, None, None]  # (n, K, 1)
    moved = points + np.insert(rng.normal(0, 1, (1000, 3, 2)) * scales, 2, 0, axis=2)
    first, second = (
        [
            dict(keypoints=keypoints.ravel().tolist(), area=area, bbox=[0, 0, 1, 1])
            for keypoints, area in zip(points_of, areas, strict=True)
        ]
        for points_of in (points, moved)
    )
    found, counts = sigmas_of_two(first, second)
    np.testing.assert_allclose(found, sigmas, rtol=0.15)
    assert counts.tolist() == [1000] * 3


def test_sigmas_come_from_keypoints_labelled_in_both():
    box = dict(bbox=[0, 0, 20, 5 / 0.53])  # taken as an area of 100
    first = [dict(keypoints=[0, 0, 2, 0, 0, 2], **box), dict(keypoints=[0, 0, 1, 0, 0, 2], **box)]
    second = [dict(keypoints=[3, 4, 2, 9, 9, 0], **box), dict(keypoints=[9, 9, 0, 9, 9, 0], **box)]
    found, counts = sigmas_of_two(first, second)
    np.testing.assert_allclose(found, [0.5, np.nan])
    assert counts.tolist() == [1, 0]
