# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how well anchors fit the boxes of a dataset, and searches for anchors that fit better.

A box fits an anchor by the ratio rule of the assigner (docs/method.md, Assignment). This rule
compares the logarithms of widths and heights, so the search works on logarithms. `sides` are the
widths and heights of boxes, (n, 2), in px of the network input.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import differential_evolution

from kapao_mm.errors import InputError

from .report import print_table

TARGET_RECALL = 0.98  # below this recall, new anchors are worth the effort
MAX_BOXES = 2000  # boxes of each kind that the search uses
POPULATION = 48
GENERATIONS = 300  # upper limit; the search ends earlier when it has converged
SPREAD = 0.3  # standard deviation of the first generation around the clusters, log px


class Fit(NamedTuple):
    """Tells how well anchors fit boxes.

    Attributes:
        recall: Best possible recall, the share of boxes that match at least one anchor.
        anchors: Mean number of anchors that match a box.
        levels: Share of boxes that match an anchor of each level, (L,). A box may match several
            levels.
    """

    recall: float
    anchors: float
    levels: np.ndarray


def side_ratios(sides: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Returns the largest of w/Aw, Aw/w, h/Ah and Ah/h for sides and anchors, (..., 2) -> (...)."""
    ratio = sides / anchors
    return np.maximum(ratio, 1 / ratio).max(-1)


def measure_fit(sides: np.ndarray, anchors: np.ndarray, max_ratio: float) -> Fit:
    """Counts which boxes match which anchors.

    Args:
        sides: Widths and heights of boxes, (n, 2) px of the network input.
        anchors: Anchors of all levels, (L, Na, 2) px of the network input.
        max_ratio: Limit of the assigner, see :class:`AnchorRatioAssigner`.

    Returns:
        The fit of the anchors.
    """
    flat = anchors.reshape(-1, 2)
    matches = np.stack([side_ratios(sides, anchor) < max_ratio for anchor in flat], 1)  # (n, A)
    by_level = matches.reshape(len(sides), *anchors.shape[:2]).any(2)  # (n, L)
    return Fit(by_level.any(1).mean(), matches.sum(1).mean(), by_level.mean(0))


def print_fit(
    title: str,
    kinds: Mapping[str, np.ndarray],
    anchors: np.ndarray,
    strides: Sequence[int],
    max_ratio: float,
) -> float:
    """Prints how well anchors fit each kind of boxes, and returns the lowest recall.

    Args:
        title: Title of the table.
        kinds: Widths and heights of boxes by their kind, (n, 2) px of the network input.
        anchors: Anchors of all levels, (L, Na, 2) px of the network input.
        strides: Px per grid cell of each level.
        max_ratio: Limit of the assigner, see :class:`AnchorRatioAssigner`.
    """
    fits = {name: measure_fit(sides, anchors, max_ratio) for name, sides in kinds.items()}
    levels = (f'P{int(stride).bit_length() - 1}' for stride in strides)
    print_table(
        (title, 'recall', 'anchors', *levels),
        (
            (name, f'{fit.recall:.4f}', f'{fit.anchors:.2f}', *(f'{n:.3f}' for n in fit.levels))
            for name, fit in fits.items()
        ),
    )
    return min(fit.recall for fit in fits.values())


def fitness(sides: np.ndarray, anchors: np.ndarray, max_ratio: float) -> np.ndarray:
    """Computes the value that the search maximizes: recall plus mean closeness of the best anchor.

    Args:
        sides: Widths and heights of boxes, (n, 2) px of the network input.
        anchors: Sets of anchors, (..., A, 2) px of the network input.
        max_ratio: Limit of the assigner, see :class:`AnchorRatioAssigner`.

    Returns:
        Fitness of each set, (...). It is 0 if no box matches, and 2 if every box has an anchor of
        exactly its size.
    """
    best = side_ratios(sides[:, None], anchors[..., None, :, :]).min(-1)  # (..., n)
    closeness = 1 - np.log(best) / np.log(max_ratio)  # 0 at max_ratio
    return np.where(best < max_ratio, 1 + closeness, 0).mean(-1)


def find_anchors(
    kinds: Sequence[np.ndarray], current: np.ndarray, strides: Sequence[int], max_ratio: float
) -> np.ndarray:
    """Finds anchors by k-means and then differential evolution.

    The result is the same in every run. All kinds of boxes (pose objects, keypoint objects) have
    the same weight, whatever their numbers. No side of an anchor is shorter than a grid cell of its
    level, or longer than the longest side of a box.

    Args:
        kinds: Widths and heights of the boxes of each kind, (n, 2) px of the network input. k-means
            runs on the first kind.
        current: Current anchors, (L, Na, 2) px of the network input. They are part of the first
            generation, so that the fit cannot become worse.
        strides: Px per grid cell of each level, finest level first.
        max_ratio: Limit of the assigner, see :class:`AnchorRatioAssigner`.

    Returns:
        Anchors in whole px, sorted by area, (L, Na, 2).

    Raises:
        InputError: If the first kind has fewer different boxes than there are anchors.
    """
    random = np.random.default_rng(0)
    kinds = [random.choice(sides, min(MAX_BOXES, len(sides)), replace=False) for sides in kinds]
    count = current.shape[0] * current.shape[1]
    distinct = len(np.unique(kinds[0], axis=0))
    if distinct < count:
        raise InputError(f'{distinct} different boxes are too few to find {count} anchors')
    clusters, _ = kmeans2(np.log(kinds[0]), count, minit='++', seed=random)  # (A, 2)
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
        seed=random,
    )
    anchors = np.rint(np.exp(found.x)).astype(int).reshape(count, 2)
    return anchors[anchors.prod(1).argsort(kind='stable')].reshape(current.shape)
