# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Derives a metainfo (names, skeleton, left/right pairs, sigmas) from a COCO-format file."""

import colorsys
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kapao_mm.errors import InputError

BOX_TO_AREA = 0.53  # area of an object without 'area', relative to its box, as in COCO's evaluation

# MMPose's colors of left, right and other keypoints and links, RGB.
LEFT, RIGHT, MIDDLE = [0, 255, 0], [255, 128, 0], [51, 153, 255]

# Patterns of a side in a keypoint name, the most reliable first: a separate word (left_eye, hip-R,
# L F paw), a word inside another (leftEye, eyeright), a capital at the end of a word (eyeL), the
# first letter (lwrist).
SIDES = (
    re.compile(r'(?<![^\W\d_])(left|right|l|r)(?![^\W\d_])', re.IGNORECASE),
    re.compile(r'(left|right)', re.IGNORECASE),
    re.compile(r'(?<=[a-z])[LR](?![a-z])'),
    re.compile(r'^[lr]', re.IGNORECASE),
)
SIDE_WORD = re.compile(r'(?<![^\W\d_])(left|right)(?![^\W\d_])', re.IGNORECASE)
OPPOSITE = dict(left='right', right='left', l='r', r='l')


class Category(NamedTuple):
    """A category of an annotation file that has annotations.

    Attributes:
        name: Name of the category in the file.
        keypoints: Names of its K keypoint types.
        named: Whether the names are from the file; otherwise they are keypoint_0, keypoint_1, ...
        links: Skeleton, pairs of indices into ``keypoints``.
        annotations: Annotations of the category, as in the file.
    """

    name: str
    keypoints: list[str]
    named: bool
    links: list[tuple[int, int]]
    annotations: list[dict[str, Any]]


def find_categories(content: dict[str, Any], source: str) -> list[Category]:
    """Returns the categories that have annotations, in the order of the file.

    Args:
        content: COCO-format annotations.
        source: Name of the file, for messages.

    Raises:
        InputError: If there are no annotations; an annotation has an unknown category, no keypoints
            or a number of keypoints that differs from its category; a name occurs twice or contains
            ``{{``; or the skeleton names an unknown keypoint.
    """
    members = {entry['id']: [] for entry in content['categories']}
    for annotation in content['annotations']:
        category = annotation['category_id']
        if category not in members:
            raise InputError(
                f'annotation {annotation["id"]} of {source} has category_id {category!r}, '
                'which is none of its categories: correct it, or list the category'
            )
        members[category].append(annotation)
    found = [
        _describe(entry, members[entry['id']], source)
        for entry in content['categories']
        if members[entry['id']]
    ]
    if not found:
        raise InputError(f'{source} has no annotations')
    return found


def _describe(entry: dict[str, Any], annotations: list[dict], source: str) -> Category:
    """Creates the category of an entry of ``categories``, see :func:`find_categories`."""
    where = f'category {entry["name"]!r} of {source}'
    named = bool(entry.get('keypoints'))
    first = len(annotations[0].get('keypoints') or ()) // 3
    names = entry['keypoints'] if named else [f'keypoint_{i}' for i in range(first)]
    for annotation in annotations:
        count = len(annotation.get('keypoints') or ()) / 3
        if not count or count != len(names):
            raise InputError(
                f'annotation {annotation["id"]} of {where} has {count:g} keypoints'
                + (f', not {len(names)}' if names else '')
                + ': correct it, or leave it out of the file'
            )
    if strange := [name for name in (entry['name'], *names) if '{{' in name]:
        raise InputError(
            f'{where}: {strange[0]!r} has {{{{ in it, which configs replace; rename it'
        )
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f'{where} has several keypoints named {", ".join(doubles)}')
    links = [tuple(link) for link in entry.get('skeleton') or ()]
    for link in links:
        if not all(1 <= end <= len(names) for end in link):
            raise InputError(
                f'the skeleton of {where} has a link {list(link)}, but its keypoints are numbered '
                f'1 to {len(names)}: correct it, or leave the skeleton out with --no-skeleton'
            )
    return Category(entry['name'], names, named, [(a - 1, b - 1) for a, b in links], annotations)


def left_right_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Returns pairs of keypoints whose names differ only in their side, see :data:`SIDES`.

    Case is ignored. A pair needs both names: 'light' is not the left side of anything if there is
    no 'right'.

    Returns:
        Indices (left, right) into ``names``, sorted by the left index.
    """
    index = {name.lower(): i for i, name in enumerate(names)}

    def partner(name: str) -> tuple[int | None, str]:
        """Returns the index of the mirrored keypoint, or None, and the side of ``name``."""
        return next(((index[m], side) for m, side in _mirrored(name) if m in index), (None, ''))

    found = [partner(name) for name in names]
    return [(i, j) for i, (j, side) in enumerate(found) if side == 'l' and found[j] == (i, 'r')]


def lone_sides(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Returns names that contain the word left or right but belong to no pair."""
    paired = {i for pair in pairs for i in pair}
    return [n for i, n in enumerate(names) if i not in paired and SIDE_WORD.search(n)]


def _mirrored(name: str) -> Iterator[tuple[str, str]]:
    """Yields candidate names of the mirrored keypoint, each with the side of ``name``.

    Candidates are in lower case, the most likely first; the side is 'l' or 'r'. If a name contains
    several sides, first all of them are swapped (left corner of the left eye), then each one alone
    (in R_R_paw one R may mean rear).
    """
    for pattern in SIDES:
        sides = list(pattern.finditer(name))
        for changing in (sides, *([side] for side in sides)):
            mirrored = name
            for side in reversed(changing):
                opposite = OPPOSITE[side.group().lower()]
                mirrored = mirrored[: side.start()] + opposite + mirrored[side.end() :]
            if changing:
                yield mirrored.lower(), changing[0].group()[0].lower()


def make_metainfo(category: Category, sigmas: Sequence[float]) -> dict[str, Any]:
    """Creates the metainfo of a category in MMPose's format.

    Keypoints get MMPose's colors for left, right and other types. Without left/right pairs each
    keypoint gets its own color.

    Args:
        category: The category.
        sigmas: Sigmas of the keypoint types, (K,).
    """
    names = category.keypoints
    pairs = left_right_pairs(names)
    swaps = {a: names[b] for pair in pairs for a, b in (pair, pair[::-1])}
    if pairs:
        sides = {i: color for pair in pairs for i, color in zip(pair, (LEFT, RIGHT), strict=True)}
        colors = [sides.get(k, MIDDLE) for k in range(len(names))]
    else:
        hues = (colorsys.hsv_to_rgb(k / len(names), 0.6, 1) for k in range(len(names)))
        colors = [[round(255 * part) for part in hue] for hue in hues]
    return dict(
        dataset_name=category.name,
        keypoint_info={
            k: dict(name=name, color=colors[k], swap=swaps.get(k, ''))
            for k, name in enumerate(names)
        },
        skeleton_info={
            i: dict(
                link=(names[a], names[b]), color=colors[a] if colors[a] == colors[b] else MIDDLE
            )
            for i, (a, b) in enumerate(category.links)
        },
        joint_weights=[1.0] * len(names),
        sigmas=list(sigmas),
    )


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
    a, b = (np.array([o['keypoints'] for o in objects], float) for objects in (first, second))
    a, b = (points.reshape(len(points), -1, 3) for points in (a, b))  # (n, K, 3)
    areas = [o.get('area') or BOX_TO_AREA * o['bbox'][2] * o['bbox'][3] for o in first]  # (n,)
    both = (a[..., 2] > 0) & (b[..., 2] > 0)  # (n, K)
    squared = ((a - b)[..., :2] ** 2).sum(-1) / np.array(areas)[:, None]  # (n, K)
    counts = both.sum(0)
    with np.errstate(invalid='ignore'):  # 0 / 0
        return np.sqrt((squared * both).sum(0) / counts), counts
