# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Estimates the sigmas of OKS from two annotations of the same objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kapao_mm.errors import InputError

from .new_metainfo import Category

BOX_TO_AREA = 0.53  # area of an object without 'area', relative to its box, as in COCO's evaluation


def estimate_sigmas(
    category: Category, second: Sequence[dict[str, Any]], source: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Estimates the sigmas of a category from a second annotation of its objects.

    Args:
        category: Category with the first annotations.
        second: Second annotations, with the ids of the first ones.
        source: File of the second annotations, for messages.

    Returns:
        The sigmas, (K,) float64; how often each keypoint is labeled in both, (K,) int; and the
        number of objects.

    Raises:
        InputError: If the ids do not match, or no object has two different locations of a keypoint.
    """
    others = {a['id']: a for a in second}
    pairs = [(a, others[a['id']]) for a in category.annotations if a['id'] in others]
    for a, b in pairs:
        if (a['image_id'], len(a['keypoints'])) != (b['image_id'], len(b['keypoints'])):
            raise InputError(
                f'annotation {a["id"]} of {source} has another image or number of keypoints than '
                'in the first file: use the same ids in both'
            )
    if not pairs:
        raise InputError(f'{source} shares no annotation ids with the first file')
    sigmas, counts = sigmas_of_two(*zip(*pairs, strict=True))
    is_known = (sigmas > 0) & (sigmas < np.inf)
    if missing := [category.keypoints[i] for i in np.flatnonzero(~is_known)]:
        raise InputError(
            f'{source}: no object has two different locations of {", ".join(missing)}, so there is '
            'nothing to estimate a sigma from'
        )
    return sigmas.round(4), counts, len(pairs)


def sigmas_of_two(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the sigmas of OKS from two annotations of the same objects, as COCO defines them.

    ``sigma_i^2 = E[d_i^2 / s^2]``, where d is the distance between the two locations of a keypoint
    (px) and s^2 is the area of the object (px^2). An object without area uses 0.53 times the area
    of its box, as COCO's evaluation does. Two annotations by different people are needed, because
    only they show how precisely a keypoint can be located.

    Args:
        first: Annotations with ``keypoints`` of K types.
        second: Second annotations of the same objects, in the same order.

    Returns:
        The sigmas, (K,) float64, NaN for types that no object has labeled twice, and the number of
        keypoints labeled in both annotations, (K,).
    """
    a, b = (
        np.array([o['keypoints'] for o in objects], float).reshape(len(objects), -1, 3)
        for objects in (first, second)
    )  # (n, K, 3)
    areas = [o.get('area') or BOX_TO_AREA * o['bbox'][2] * o['bbox'][3] for o in first]  # (n,)
    both = (a[..., 2] > 0) & (b[..., 2] > 0)  # (n, K)
    squared = ((a - b)[..., :2] ** 2).sum(-1) / np.array(areas)[:, None]  # (n, K)
    counts = both.sum(0)
    with np.errstate(invalid='ignore'):  # 0 / 0
        return np.sqrt((squared * both).sum(0) / counts), counts
