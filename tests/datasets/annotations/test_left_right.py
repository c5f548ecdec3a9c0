# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapao_mm.datasets.annotations.left_right import left_right_pairs, lone_sides


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
def test_names_without_the_other_side_are_not_a_pair(names):
    assert left_right_pairs(names) == []


def test_corners_of_both_eyes_are_paired_as_in_a_mirror_image():
    sides = ('left', 'right')
    names = [f'{eye}_eye_{corner}' for eye in sides for corner in sides]
    assert left_right_pairs(names) == [(0, 3), (1, 2)]


@given(st.lists(st.from_regex(r'[lrLR_a]{1,5}|(left|right)_?[ab]', fullmatch=True), unique=True))
def test_no_keypoint_is_in_two_pairs(names):
    paired = [i for pair in left_right_pairs(names) for i in pair]
    assert len(paired) == len(set(paired))


def test_names_with_a_side_but_without_partner_are_found():
    names = ['left_eye', 'right_eye', 'left_ear', 'ring', 'cleft', 'Right']
    assert lone_sides(names, left_right_pairs(names)) == ['left_ear', 'Right']
