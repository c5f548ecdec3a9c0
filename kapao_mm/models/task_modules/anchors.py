# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""How well anchors fit a dataset, and anchors that fit it, by the rule of the assigner.

Sides are widths and heights of boxes, (n, 2) input px. By the ratio rule (docs/method.md,
Assignment) boxes are as far apart as the logarithms of their sides, so anchors are searched there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import differential_evolution

from kapao_mm.errors import InputError

TARGET_RECALL = 0.98  # below it anchors are worth changing
MAX_BOXES = 2000  # of each kind, that the evolution looks at
POPULATION = 48
GENERATIONS = 300  # at most; it ends when all are alike
SPREAD = 0.3  # of the first generation about the clusters, logarithm of px


class Fit(NamedTuple):
    """How well anchors fit boxes.

    Attributes:
        recall: best possible recall, the share of boxes that some anchor matches.
        anchors: how many anchors match a box, on average.
        levels: share of boxes that some anchor of the level matches, (L,); a box may have several.
    """

    recall: float
    anchors: float
    levels: np.ndarray


def side_ratios(sides: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The largest ratio max(w/Aw, Aw/w, h/Ah, Ah/h), (...), of sides and anchors, both (..., 2)."""
    ratio = sides / anchors
    return np.maximum(ratio, 1 / ratio).max(-1)


def measure_fit(sides: np.ndarray, anchors: np.ndarray, max_ratio: float) -> Fit:
    """Counts the matches of boxes (n, 2) with the anchors (L, Na, 2) of all levels, input px."""
    flat = anchors.reshape(-1, 2)
    matches = np.stack([side_ratios(sides, anchor) < max_ratio for anchor in flat], 1)  # (n, A)
    by_level = matches.reshape(len(sides), *anchors.shape[:2]).any(2)  # (n, L)
    return Fit(by_level.any(1).mean(), matches.sum(1).mean(), by_level.mean(0))


def fitness(sides: np.ndarray, anchors: np.ndarray, max_ratio: float) -> np.ndarray:
    """What the evolution raises: recall plus how close the best anchor is, on average.

    Args:
        sides: (n, 2) input px.
        anchors: (..., A, 2) input px.
        max_ratio: the assigner's.

    Returns:
        (...), from 0, where nothing matches, to 2, where every box has an anchor of its size.
    """
    best = side_ratios(sides[:, None], anchors[..., None, :, :]).min(-1)  # (..., n)
    closeness = 1 - np.log(best) / np.log(max_ratio)  # 0 at max_ratio
    return np.where(best < max_ratio, 1 + closeness, 0).mean(-1)


def find_anchors(
    kinds: Sequence[np.ndarray], current: np.ndarray, strides: Sequence[int], max_ratio: float
) -> np.ndarray:
    """Finds anchors by k-means, then differential evolution; the same ones every time.

    All kinds of boxes (pose objects, keypoint objects) weigh the same, however many they are. No
    anchor is smaller than a cell of its level, and no side is longer than the longest of a box.

    Args:
        kinds: sides of the boxes of each kind, (n, 2) input px; clusters are those of the first.
        current: (L, Na, 2) input px; part of the first generation, so that the fit does not fall.
        strides: px a cell of each level, finest first.
        max_ratio: the assigner's.

    Returns:
        Whole px, sorted by area, (L, Na, 2).

    Raises:
        InputError: there are fewer different boxes of the first kind than anchors.
    """
    random = np.random.default_rng(0)
    kinds = [random.choice(sides, min(MAX_BOXES, len(sides)), replace=False) for sides in kinds]
    count = current.shape[0] * current.shape[1]
    distinct = len(np.unique(kinds[0], axis=0))
    if distinct < count:
        raise InputError(f'{distinct} different boxes are too few to find {count} anchors')
    clusters, _ = kmeans2(np.log(kinds[0]), count, minit='++', rng=random)  # (A, 2)
    clusters = clusters[clusters.sum(1).argsort()]

    first = clusters + random.normal(0, SPREAD, (POPULATION, count, 2))
    first[:2] = clusters, np.log(current).reshape(count, 2)
    shortest = np.repeat(strides, 2 * current.shape[1])  # (2A,)
    longest = np.maximum(shortest, max(sides.max() for sides in kinds))

    def cost(genes: np.ndarray) -> np.ndarray:  # (2A, S) -> (S,)
        anchors = np.exp(genes.T).reshape(-1, count, 2)
        return -sum(fitness(sides, anchors, max_ratio) for sides in kinds)

    found = differential_evolution(
        cost,
        np.log(np.stack((shortest, longest), 1)),
        init=first.reshape(POPULATION, -1),
        maxiter=GENERATIONS,
        tol=1e-4,
        polish=False,
        updating='deferred',
        vectorized=True,
        rng=random,
    )
    anchors = np.rint(np.exp(found.x)).astype(int).reshape(count, 2)
    return anchors[anchors.prod(1).argsort(kind='stable')].reshape(current.shape)
