# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kapao_mm.datasets.toy.render import render, silhouette
from kapao_mm.datasets.toy.scene import LEVELS, arrange

SIZE = (160, 120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('level', 'most', 'lowest', 'highest'), [('easy', 2, 75, 112.5), ('crowd', 8, 22.5, 105)]
)
def test_numbers_and_sizes_of_people_are_those_of_the_level(level, most, lowest, highest):
    scenes = [arrange(np.random.default_rng(seed), LEVELS[level], SIZE) for seed in range(60)]
    counts = {len(figures) for figures in scenes}
    assert counts == set(range(1, most + 1))
    boxes = np.array([figure.box() for figures in scenes for figure in figures])
    heights = boxes[:, 3] - boxes[:, 1]
    assert lowest <= heights.min() < lowest * 1.3
    assert highest * 0.9 < heights.max() <= highest
    cut = ((boxes[:, :2] < 0) | (boxes[:, 2:] > SIZE)).any(1)
    assert 0.05 < cut.mean() < 0.4


def test_nearer_parts_and_people_are_drawn_later():
    figures = arrange(np.random.default_rng(0), LEVELS['crowd'], SIZE)
    heights = [figure.box()[3] - figure.box()[1] for figure in figures]
    assert len(heights) > 2
    assert heights == sorted(heights)  # nearer people are larger
    for figure in figures:
        depths = [part.depth for part in figure.parts]
        assert depths == sorted(depths)


@pytest.mark.slow
@given(st.integers(0, 10_000), st.sampled_from(list(LEVELS.values())))
@settings(max_examples=20, deadline=None)
def test_enough_of_every_person_is_visible(seed, level):
    figures = arrange(np.random.default_rng(seed), level, SIZE)
    people = render(np.zeros((*SIZE[::-1], 3), np.uint8), figures)[1]
    assert len(people) == len(figures)
    for figure, person in zip(figures, people, strict=True):
        left, top, right, bottom = figure.box()
        size = (int(right - left) + 1, int(bottom - top) + 1)
        area = silhouette(figure.moved(1, (-left, -top)), size).sum()
        assert person['area'] > 0.9 * level.min_visible * area
