# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Derives config values from the object sizes of a dataset: input size and fusion distance."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .instances import Instances, inner_sides
from .issues import AnnotationIssue

PAPER_DISTANCE = 50  # the paper's fusion distance for COCO, px of the original image
COCO_SIZE = 109  # median square root of the box area in COCO, px of the original image
CELLS = 2  # minimum length of an object that can be learned, in cells of the finest grid
SHARE = 0.98  # share of the objects that a suggested input size must suit
DIVISOR = 64  # divisor of input sizes, the stride of the coarsest grid, px


def choose_fusion_distance(instances: Instances) -> int:
    """Scales the paper's fusion distance to the object size of a dataset.

    The size of a category is the median square root of the area of boxes with labeled keypoints.
    The smallest category counts, because a wrong fusion is worse than a missed one.

    Returns:
        ``fusion_distance`` in px of the original image, at least 1. Without objects it is the
        paper's value.
    """
    sides = inner_sides(instances)  # (N, 2)
    sizes = np.sqrt(sides.prod(1))
    counted = (sizes > 0) & (instances.visible > 0).any(1) & ~instances.crowd
    categories = np.unique(instances.categories[counted])
    medians = [np.median(sizes[counted & (instances.categories == c)]) for c in categories]
    return max(1, round(PAPER_DISTANCE * min(medians, default=COCO_SIZE) / COCO_SIZE))


def find_small_objects(
    instances: Instances, input_size: int, head: Mapping[str, Any]
) -> list[AnnotationIssue]:
    """Finds pose and keypoint objects that are too small to be learned at an input size.

    A pose object is too small if its longer side is shorter than :data:`CELLS` cells of the finest
    grid, so that its keypoints share cells, or if all anchors are too large to match it. A keypoint
    object is too small if it is smaller than a cell.

    Args:
        instances: The annotations.
        input_size: Longer side of the network input, px.
        head: Config of the head with ``strides``, ``anchors``, ``keypoint_size`` and ``assigner``.
    """
    return [
        *_small_poses(instances, input_size, head),
        *_small_keypoint_objects(input_size, head),
    ]


def describe_small_sides(
    relative_sides: np.ndarray, input_size: int, head: Mapping[str, Any]
) -> str | None:
    """Returns a warning if a larger input is needed for :data:`SHARE` of all objects, or None.

    Args:
        relative_sides: Sides (w, h) of n objects, relative to the longer side of the image, (n, 2).
        input_size: Longer side of the network input, px.
        head: Config of the head, see :func:`find_small_objects`.
    """
    if not len(relative_sides):
        return None
    missing = _missing_factors(relative_sides * input_size, head, min(head['strides']))
    wanted = _wanted_size(missing, input_size)
    if wanted <= input_size:
        return None
    return (
        f'{(missing > 1).sum()} of {len(missing)} training objects are too small to be learned in '
        f'an input of {input_size} px: input_size={wanted} is enough for {SHARE:.0%} of them all'
    )


def _small_poses(
    instances: Instances, input_size: int, head: Mapping[str, Any]
) -> list[AnnotationIssue]:
    stride = min(head['strides'])
    sides = inner_sides(instances, input_size)
    counted = (sides > 0).all(1) & ~instances.crowd
    missing = _missing_factors(sides[counted], head, stride)  # (n,)
    ids = instances.ids[counted][missing > 1].tolist()
    if not ids:
        return []
    wanted = _wanted_size(missing, input_size)
    if wanted > input_size:
        remedy = f'input_size={wanted} or more is enough for {SHARE:.0%} of all objects'
    else:
        remedy = f'they are few, less than {1 - SHARE:.0%} of all objects'
    what = (
        f'objects too small to be learned in an input of {input_size} px, less than '
        f'{CELLS * stride} px long or too thin for the anchors'
    )
    return [AnnotationIssue('annotations', what, remedy, ids)]


def _small_keypoint_objects(input_size: int, head: Mapping[str, Any]) -> list[AnnotationIssue]:
    stride, keypoint_size = min(head['strides']), float(np.min(head['keypoint_size']))
    if keypoint_size * input_size >= stride:
        return []
    what = f'keypoint objects smaller than a grid cell of {stride} px'
    remedy = f'use input_size={_round_up(stride / keypoint_size)} or a larger keypoint_size'
    return [AnnotationIssue('metainfo', what, remedy, [f'{keypoint_size * input_size:.1f} px'])]


def _missing_factors(sides: np.ndarray, head: Mapping[str, Any], stride: int) -> np.ndarray:
    """Returns the factor by which each object must grow to be learned, (n,); at most 1 if it fits.

    Objects whose aspect ratio matches no anchor at any size are judged by their length alone.

    Args:
        sides: Sides (w, h) of n objects, (n, 2) px of the network input.
        head: Config of the head.
        stride: Stride of the finest grid, px.
    """
    anchors, ratio = np.reshape(head['anchors'], (-1, 2)), head['assigner']['max_ratio']
    low = (anchors / ratio / sides[:, None]).max(-1)  # (n, A), lowest factor that matches
    high = (anchors * ratio / sides[:, None]).min(-1)  # (n, A), highest
    anchor_factors = np.where(low < high, low, np.inf).min(1)
    anchor_factors[np.isinf(anchor_factors)] = 0
    return np.maximum(anchor_factors, CELLS * stride / sides.max(1))


def _wanted_size(missing: np.ndarray, input_size: int) -> int:
    """Returns the input size, px, at which :data:`SHARE` of the objects can be learned."""
    return _round_up(input_size * np.quantile(missing, SHARE, method='higher'))


def _round_up(size: float) -> int:
    return math.ceil(round(size / DIVISOR, 6)) * DIVISOR
