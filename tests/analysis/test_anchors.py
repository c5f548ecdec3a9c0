# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kapao_mm.analysis import anchors as anchors_file
from kapao_mm.analysis.anchors import find_anchors, fitness, measure_fit
from kapao_mm.errors import InputError
from kapao_mm.models.task_modules.assigner import AnchorRatioAssigner
from kapao_mm.models.task_modules.objects import Objects

MAX_RATIO = 4
STRIDES = (8, 16)
ANCHORS = np.array([[(10, 10), (10, 40)], [(60, 60), (100, 200)]], np.float32)

lengths = st.floats(1, 1000, width=32)


def count_matches(sides, anchors, stride):
    """Returns the number of anchors of a level that the assigner matches to each box, (n,)."""
    boxes = torch.cat((torch.full_like(sides, 1000), sides), 1)
    n = len(boxes)
    objects = Objects(
        image=torch.arange(n),
        label=torch.zeros(n, dtype=torch.long),
        boxes=boxes,
        keypoints=torch.zeros(n, 1, 2),
        visible=torch.zeros(n, 1, dtype=torch.bool),
    )
    grid_hw = (2000 // stride, 2000 // stride)
    matches = AnchorRatioAssigner(MAX_RATIO).assign(objects, anchors / stride, stride, grid_hw)
    own_cell = torch.stack((matches.image, matches.anchor), 1).unique(dim=0)
    return torch.bincount(own_cell[:, 0], minlength=n).numpy()


@settings(deadline=None)
@example([(40, 10)])
@given(st.lists(st.tuples(lengths, lengths), min_size=1, max_size=9))
def test_matches_are_those_of_the_assigner(sides):
    sides = np.array(sides, np.float32)
    counts = [
        count_matches(torch.from_numpy(sides), torch.from_numpy(anchors), stride)
        for anchors, stride in zip(ANCHORS, STRIDES, strict=True)
    ]
    fit = measure_fit(sides, ANCHORS, MAX_RATIO)
    assert fit.recall == pytest.approx(np.any(counts, 0).mean())
    assert fit.anchors == pytest.approx(np.sum(counts, 0).mean())
    assert fit.levels == pytest.approx(np.mean(np.array(counts) > 0, 1))


def test_fitness_is_recall_plus_closeness():
    sides = np.array([(10.0, 10), (20, 10), (39.99, 10), (40, 10)])
    anchors = np.array([[(10.0, 10)], [(40, 10)]])  # two sets of one
    alone = [fitness(side[None], anchors, MAX_RATIO) for side in sides]
    expected = [(2, 0), (1.5, 1.5), (1, 2), (0, 2)]
    assert np.array(alone) == pytest.approx(np.array(expected), abs=1e-3)
    assert fitness(sides, anchors, MAX_RATIO) == pytest.approx(np.mean(expected, 0), abs=1e-3)


@pytest.fixture
def boxes():
    """Tall boxes, all too large for ``ANCHORS``."""
    random = np.random.default_rng(1)
    return np.exp(random.normal(0, 0.4, (200, 2))) * (250, 900)


def test_found_anchors_match_all_kinds_of_boxes(boxes):
    kinds = [boxes, np.array([(20.0, 20)])]
    assert measure_fit(boxes, ANCHORS, MAX_RATIO).recall < 0.5
    found = find_anchors(kinds, ANCHORS, STRIDES, MAX_RATIO)
    assert found.shape == ANCHORS.shape
    assert [measure_fit(sides, found, MAX_RATIO).recall for sides in kinds] == [1, 1]
    area = found.reshape(-1, 2).prod(1)
    assert (np.diff(area) >= 0).all()
    np.testing.assert_array_equal(found, find_anchors(kinds, ANCHORS, STRIDES, MAX_RATIO))


def test_no_anchor_is_smaller_than_a_cell_of_its_level(boxes):
    found = find_anchors([boxes / 100], ANCHORS, (8, 64), MAX_RATIO)
    assert found[0].min() == 8
    assert (found[1] == 64).all()


def test_the_search_starts_from_clusters_and_from_the_current_anchors(boxes, monkeypatch):
    kinds = [boxes, np.array([(20.0, 20)])]
    good = find_anchors(kinds, ANCHORS, STRIDES, MAX_RATIO)
    monkeypatch.setattr(anchors_file, 'GENERATIONS', 0)
    np.testing.assert_array_equal(find_anchors(kinds, good, STRIDES, MAX_RATIO), good)
    clusters = find_anchors([boxes], ANCHORS, STRIDES, MAX_RATIO)
    assert measure_fit(boxes, clusters, MAX_RATIO).recall == 1


def test_too_few_boxes_are_refused():
    boxes = np.array([(10.0, 10), (20, 10), (20, 20), (20, 20)])
    with pytest.raises(InputError, match='3 different boxes are too few to find 4 anchors'):
        find_anchors([boxes], ANCHORS, STRIDES, MAX_RATIO)
