# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

import mmpose
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine import Config
from mmpose.datasets.datasets.utils import parse_pose_metainfo

from kapao_mm.datasets.toy.figure import (
    KEYPOINTS,
    Figure,
    assemble,
    body_axes,
    make_head,
    sample_figure,
    sample_look,
)
from kapao_mm.datasets.toy.render import render
from kapao_mm.datasets.toy.scene import LEVELS


def draw(figure: Figure) -> tuple[np.ndarray, np.ndarray]:
    """Draws a figure; returns the image and the keypoints (17, 3)."""
    image, (person,) = render(np.full((480, 640, 3), 128, np.uint8), [figure])
    return image, np.reshape(person['keypoints'], (17, 3))


def test_keypoint_names_and_order_are_those_of_mmpose():
    path = Path(mmpose.__file__).parent / '.mim/configs/_base_/datasets/coco.py'
    meta = parse_pose_metainfo(Config.fromfile(path).dataset_info)
    assert [meta['keypoint_id2name'][i] for i in range(17)] == list(KEYPOINTS)


@pytest.mark.parametrize(
    ('yaw', 'expected'),
    [
        (0, [2, 2, 2, 2, 2]),
        (180, [1, 1, 1]),
        (90, [2, 1, 2, 1, 2]),  # turned to its left it shows its right side
        (-90, [2, 2, 1, 2, 1]),
    ],
)
def test_head_hides_its_own_keypoints(yaw, expected):
    upright, look = body_axes(yaw), sample_look(np.random.default_rng(0))
    head = assemble([make_head(np.random.default_rng(0), look, upright, upright)])
    keypoints = draw(head.moved(300, (80, 80)))[1]
    assert keypoints[: len(expected), 2].tolist() == expected


@given(st.integers(0, 10_000), st.sampled_from(list(LEVELS.values())))
@settings(max_examples=30, deadline=None)
def test_left_is_warm_and_right_is_cool_on_every_visible_limb(seed, level):
    rng = np.random.default_rng(seed)
    figure = sample_figure(rng, level.facing, level.legs, level.arms)
    image, keypoints = draw(figure.moved(400, (320, 100)))
    for index in (*range(1, 9), *range(11, 15)):  # eyes to elbows, hips, knees
        x, y, v = keypoints[index]
        if v == 2:
            blue, _, red = image[round(y), round(x)].astype(int)
            assert (red > blue) == KEYPOINTS[index].startswith('left')


def test_left_of_a_person_facing_the_viewer_is_right_in_the_image():
    assert (body_axes(0)[0] @ [1, 0, 0], body_axes(180)[0] @ [1, 0, 0]) == pytest.approx((1, -1))
    assert body_axes(0)[2] == pytest.approx([0, 0, 1])  # forward is towards the viewer
