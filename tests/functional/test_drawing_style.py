# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from dataclasses import replace

import pytest

from kapao_mm.functional.drawing_style import LEFT, MIDDLE, RIGHT, Style
from kapao_mm.structures import Metainfo


def metainfo(names: list[str], colors: list[tuple], pairs: list, categories=None) -> Metainfo:
    links = [[0, 1], [1, 2]]
    return Metainfo(
        categories=categories or [dict(name='x', keypoint_ids=list(range(len(names))))],
        keypoint_names=names,
        flip_pairs=pairs,
        sigmas=[],
        skeleton_links=links,
        keypoint_colors=colors,
        link_colors=[[9, 9, 9]] * len(links),
    )


@pytest.mark.parametrize(
    'names',
    [
        ('nose', 'l_eye', 'r_eye'),
        ('nose', 'eyeL', 'eyeR'),
        ('nose', 'left eye', 'right eye'),
        ('tip', 'a', 'b'),  # which one is left is unknown
    ],
)
def test_sides_of_the_same_color_get_colors_that_differ(names):
    style = Style.from_metainfo(metainfo(names, [[1, 2, 3]] * 3, [[1, 2]]))
    assert list(style.keypoint_colors) == [MIDDLE, LEFT, RIGHT]
    assert list(style.link_colors) == [MIDDLE, MIDDLE]
    assert list(style.side_colors) == [LEFT, RIGHT]


def test_left_is_left_if_the_right_one_comes_first():
    style = Style.from_metainfo(metainfo(['nose', 'R_Eye', 'L_Eye'], [[0, 0, 0]] * 3, [[1, 2]]))
    assert list(style.keypoint_colors) == [MIDDLE, RIGHT, LEFT]


def test_links_within_a_side_have_its_color():
    names, pairs = ['l_hip', 'l_knee', 'r_hip', 'r_knee'], [[0, 2], [1, 3]]
    style = Style.from_metainfo(metainfo(names, [[0, 0, 0]] * 4, pairs))
    assert list(style.link_colors) == [LEFT, MIDDLE]


def test_colors_that_tell_the_sides_apart_are_kept_and_bgr_on_request():
    info = metainfo(['nose', 'l_eye', 'r_eye'], [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 2]])
    assert Style.from_metainfo(info).side_colors == [(4, 5, 6), (7, 8, 9)]
    style = Style.from_metainfo(info, bgr=True)
    assert style.keypoint_colors == [(3, 2, 1), (6, 5, 4), (9, 8, 7)]
    assert style.side_colors == [(6, 5, 4), (9, 8, 7)]
    assert style.box_colors[0] == Style.from_metainfo(info).box_colors[0][::-1]
    assert style.track_colors[1] == Style.from_metainfo(info).track_colors[1][::-1]


def test_categories_without_sides_keep_their_colors():
    categories = [dict(name='x', keypoint_ids=[0, 1]), dict(name='y', keypoint_ids=[2, 3])]
    info = metainfo(['l_eye', 'r_eye', 'top', 'base'], [[1, 2, 3]] * 4, [[0, 1]], categories)
    style = Style.from_metainfo(replace(info, skeleton_links=[[0, 1], [2, 3]]))
    assert list(style.keypoint_colors) == [LEFT, RIGHT, (1, 2, 3), (1, 2, 3)]
    assert list(style.link_colors) == [MIDDLE, (9, 9, 9)]


def test_the_legend_has_no_sides_if_there_are_none_or_each_has_several_colors():
    colors = [[i, i, i] for i in range(4)]
    names = ['l_eye', 'r_eye', 'l_hip', 'r_hip']
    assert not Style.from_metainfo(metainfo(names, colors, [[0, 1], [2, 3]])).side_colors
    assert not Style.from_metainfo(metainfo(names, colors, [])).side_colors


def test_faces_are_found_by_words_in_names_and_heads_where_there_are_none():
    names = ['person/Nose', 'person/L_EarBase', 'person/rear_end', 'robot/top_head', 'robot/neck']
    categories = [
        dict(name='person', keypoint_ids=[0, 1, 2]),
        dict(name='robot', keypoint_ids=[3, 4]),
    ]
    style = Style.from_metainfo(metainfo(names, [[0, 0, 0]] * 5, [], categories))
    assert list(style.face_types) == [0, 1, 3, 4]


def test_tracks_have_distinct_colors():
    assert len(set(Style._field_defaults['track_colors'])) > 60
