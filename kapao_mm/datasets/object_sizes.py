# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What the sizes of a dataset's objects mean for its config: input size and fusion distance."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .annotation_checks import Finding
from .annotation_review import Instances, inner_sides

PAPER_DISTANCE = 50  # px of the original image, for people of COCO
COCO_SIZE = 109  # px of the original image, the median root of their boxes' areas
CELLS = 2  # of the finest grid, the longer side of an object that can be learned
SHARE = 0.98  # of the objects that an input size is to suit
DIVISOR = 64  # of input sizes, the stride of the coarsest grid


def choose_fusion_distance(instances: Instances) -> int:
    """Chooses the tolerance of fusion so that it is to the objects as the paper's is to people.

    The size of a category is the median root of the area of its boxes with labelled keypoints; of
    several categories the smallest counts, since a wrong fusion costs more than a missed one.

    Returns:
        ``fusion_distance`` in px of the original image, at least 1; the paper's without objects.
    """
    sides = inner_sides(instances)  # (N, 2)
    sizes = np.sqrt(sides.prod(1))
    shown = (sizes > 0) & (instances.visible > 0).any(1) & ~instances.crowd
    categories = np.unique(instances.categories[shown])
    medians = [np.median(sizes[shown & (instances.categories == c)]) for c in categories]
    return max(1, round(PAPER_DISTANCE * min(medians, default=COCO_SIZE) / COCO_SIZE))


def find_small_objects(
    instances: Instances, input_size: int, head: Mapping[str, Any]
) -> list[Finding]:
    """Finds pose and keypoint objects that are too small to be learned at an input size.

    A pose object is too small if its longer side is less than :data:`CELLS` cells of the finest
    grid, so that its keypoints share cells, or if every anchor that it could match is too large for
    it. A keypoint object is if it is smaller than a cell.

    Args:
        instances: The annotations.
        input_size: Long side of the network input, px.
        head: The config of the head: ``strides``, ``anchors``, ``keypoint_size``, ``assigner``.
    """
    stride = min(head['strides'])
    sides = inner_sides(instances, input_size)
    shown = (sides > 0).all(1) & ~instances.crowd
    missing = _missing_factors(sides[shown], head, stride)  # (n,)
    small = instances.ids[shown][missing > 1].tolist()
    wanted = (
        _round_up(input_size * np.quantile(missing, SHARE, method='higher'))
        if small
        else input_size
    )
    remedy = f'input_size={wanted} or more would do for {SHARE:.0%} of all objects'
    if wanted <= input_size:
        remedy = f'they are few, less than {1 - SHARE:.0%} of all objects'
    findings = [
        Finding(
            'annotations',
            f'objects too small to be learned in an input of {input_size} px, less than '
            f'{CELLS * stride} px long or too thin for the anchors',
            remedy,
            small,
        )
    ]
    keypoint_size = float(np.min(head['keypoint_size']))
    if keypoint_size * input_size < stride:
        findings.append(
            Finding(
                'metainfo',
                f'keypoint objects smaller than a grid cell of {stride} px',
                f'use input_size={_round_up(stride / keypoint_size)} or a larger keypoint_size',
                [f'{keypoint_size * input_size:.1f} px'],
            )
        )
    return [finding for finding in findings if finding.ids]


def _missing_factors(sides: np.ndarray, head: Mapping[str, Any], stride: int) -> np.ndarray:
    """By which factor (n,) objects of sides (n, 2) px are too small; at most 1 where they are not.

    Of objects that are too long and thin for any anchor, whatever the size, only the length counts.
    """
    anchors, ratio = np.reshape(head['anchors'], (-1, 2)), head['assigner']['max_ratio']
    low = (anchors / ratio / sides[:, None]).max(-1)  # (n, A), factors from which an anchor matches
    high = (anchors * ratio / sides[:, None]).min(-1)  # and to which
    anchor_factors = np.where(low < high, low, np.inf).min(1)
    anchor_factors[np.isinf(anchor_factors)] = 0
    return np.maximum(anchor_factors, CELLS * stride / sides.max(1))


def _round_up(size: float) -> int:
    return math.ceil(round(size / DIVISOR, 6)) * DIVISOR
