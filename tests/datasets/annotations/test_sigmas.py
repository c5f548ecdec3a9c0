# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kapao_mm.datasets.annotations.new_metainfo import Category
from kapao_mm.datasets.annotations.sigmas import estimate_sigmas, sigmas_of_two
from kapao_mm.errors import InputError

OBJECT = dict(id=1, image_id=1, keypoints=[0, 0, 2, 0, 0, 2], area=100, bbox=[0, 0, 10, 10])
CATEGORY = Category('cow', ['top', 'end'], True, [], [OBJECT])


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_estimated_sigmas_are_those_of_the_random_generator(seed):
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


def test_only_keypoints_labeled_in_both_annotations_count():
    box = dict(bbox=[0, 0, 20, 5 / 0.53])  # gives an area of 100
    first = [dict(keypoints=[0, 0, 2, 0, 0, 2], **box), dict(keypoints=[0, 0, 1, 0, 0, 2], **box)]
    second = [dict(keypoints=[3, 4, 2, 9, 9, 0], **box), dict(keypoints=[9, 9, 0, 9, 9, 0], **box)]
    found, counts = sigmas_of_two(first, second)
    np.testing.assert_allclose(found, [0.5, np.nan])
    assert counts.tolist() == [1, 0]


def test_second_annotation_gives_the_sigmas_of_a_category():
    moved = [OBJECT | dict(keypoints=[3, 4, 2, 0, 5, 2])]
    sigmas, counts, objects = estimate_sigmas(CATEGORY, moved, 'b.json')
    np.testing.assert_allclose(sigmas, [0.5, 0.5])
    assert (counts.tolist(), objects) == ([1, 1], 1)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(), 'b.json: no object has two different locations of top, end'),
        (dict(id=100), 'b.json shares no annotation ids'),
        (dict(image_id=2), 'annotation 1 of b.json has another image'),
        (dict(keypoints=[1, 1, 2]), 'or number of keypoints'),
    ],
)
def test_second_annotation_that_does_not_fit_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        estimate_sigmas(CATEGORY, [OBJECT | change], 'b.json')
