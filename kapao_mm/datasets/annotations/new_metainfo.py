# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Derives a metainfo (names, skeleton, left/right pairs, sigmas) from a COCO-format file."""

import colorsys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from kapao_mm.errors import InputError

from .left_right import left_right_pairs, lone_sides

# MMPose's colors of left, right and other keypoints and links, RGB.
LEFT, RIGHT, MIDDLE = [0, 255, 0], [255, 128, 0], [51, 153, 255]


class Category(NamedTuple):
    """A category of an annotation file that has annotations.

    Attributes:
        name: Name of the category in the file.
        keypoints: Names of its K keypoint types; none if it has boxes only.
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
        content: COCO-format annotations whose categories are listed.
        source: Name of the file, for messages.

    Raises:
        InputError: If there are no annotations; an annotation has a number of keypoints that
            differs from its category; a name occurs twice or contains ``{{``; or the
            skeleton names an unknown keypoint.
    """
    members = defaultdict(list)
    for annotation in content['annotations']:
        members[annotation['category_id']].append(annotation)
    if not members:
        raise InputError(f'{source} has no annotations')
    return [
        _make_category(entry, members[entry['id']], source)
        for entry in content['categories']
        if entry['id'] in members
    ]


def model_categories(found: Sequence[Category], name: str) -> list[Category]:
    """Returns the categories of the model.

    If all categories have the same keypoints, they are merged into one with the given name.

    Raises:
        InputError: If no category has keypoints.
    """
    if not any(category.keypoints for category in found):
        raise InputError(
            f'{", ".join(category.name for category in found)}: no category has keypoints, only '
            'boxes: label keypoints, or train a detector without poses instead (MMDetection)'
        )
    if len({tuple(category.keypoints) for category in found}) > 1:
        return list(found)
    links = dict.fromkeys(link for category in found for link in category.links)
    annotations = [a for category in found for a in category.annotations]
    return [found[0]._replace(name=name, links=list(links), annotations=annotations)]


def can_flip(category: Category) -> bool:
    """Returns whether images may be flipped.

    This needs left/right pairs, and no name with a side may be without its counterpart. A category
    without keypoints may be flipped.
    """
    if not category.keypoints:
        return True
    pairs = left_right_pairs(category.keypoints)
    return bool(pairs) and not lone_sides(category.keypoints, pairs)


def describe(category: Category) -> str:
    """Returns a text with the keypoints, left/right pairs and skeleton of a category."""
    names = category.keypoints
    if not names:
        return f'{category.name}: {len(category.annotations)} annotations, no keypoints: boxes only'
    pairs = left_right_pairs(names)
    paired = ', '.join(f'{names[a]} - {names[b]}' for a, b in pairs)
    counts = f'{len(category.annotations)} annotations, {len(names)} keypoints'
    lines = [f'{category.name}: {counts}: {", ".join(names)}']
    if not category.named:
        lines.append('the file has no names of keypoints: write better ones into the metainfo')
    lines.append(f'left/right pairs: {paired or "none"}')
    if lone := lone_sides(names, pairs):
        lines.append(f'without their other side: {", ".join(lone)}')
    lines.append(f'skeleton: {len(category.links)} links')
    if not can_flip(category):
        lines.append(
            'no HorizontalFlip in training: without these pairs a mirror image has wrong names'
        )
    return '\n  '.join(lines)


def make_metainfo(category: Category, sigmas: Sequence[float]) -> dict[str, Any]:
    """Creates the metainfo of a category in MMPose's format.

    Args:
        category: The category.
        sigmas: Sigmas of the keypoint types, (K,).
    """
    names, pairs = category.keypoints, left_right_pairs(category.keypoints)
    swaps = {a: names[b] for pair in pairs for a, b in (pair, pair[::-1])}
    colors = _keypoint_colors(len(names), pairs)
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


def join_metainfos(
    name: str, categories: Sequence[Category], metainfos: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the metainfo of a dataset from that of each category, empty without keypoints."""
    if len(categories) == 1:
        return metainfos[0]
    names = (category.name for category in categories)
    return dict(dataset_name=name, categories=dict(zip(names, metainfos, strict=True)))


def _make_category(entry: dict[str, Any], annotations: list[dict], source: str) -> Category:
    """Creates the category of an entry of ``categories``, see :func:`find_categories`."""
    where = f'category {entry["name"]!r} of {source}'
    named = bool(entry.get('keypoints'))
    first = len(annotations[0].get('keypoints') or ()) // 3
    names = entry['keypoints'] if named else [f'keypoint_{i}' for i in range(first)]
    if not names and not any(a.get('keypoints') for a in annotations):
        return Category(entry['name'], [], False, [], annotations)
    links = [tuple(link) for link in entry.get('skeleton') or ()]
    _check_counts(annotations, len(names), where)
    _check_names([entry['name'], *names], where)
    _check_links(links, len(names), where)
    return Category(entry['name'], names, named, [(a - 1, b - 1) for a, b in links], annotations)


def _check_counts(annotations: list[dict], expected: int, where: str) -> None:
    for annotation in annotations:
        count = len(annotation.get('keypoints') or ()) / 3
        if not count or count != expected:
            raise InputError(
                f'annotation {annotation["id"]} of {where} has {count:g} keypoints'
                + (f', not {expected}' if expected else '')
                + ': correct it, or leave it out of the file'
            )


def _check_names(names: Sequence[str], where: str) -> None:
    """Checks the name of a category, followed by those of its keypoints."""
    if strange := [name for name in names if '{{' in name]:
        raise InputError(f'{where}: {strange[0]!r} contains {{{{, which configs replace; rename it')
    if doubles := sorted({name for name in names[1:] if names[1:].count(name) > 1}):
        raise InputError(f'{where} has several keypoints named {", ".join(doubles)}')


def _check_links(links: Sequence[tuple[int, int]], count: int, where: str) -> None:
    for link in links:
        if not all(1 <= end <= count for end in link):
            raise InputError(
                f'the skeleton of {where} has a link {list(link)}, but its keypoints are numbered '
                f'1 to {count}: correct it, or leave the skeleton out with --no-skeleton'
            )


def _keypoint_colors(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Returns MMPose's colors of left, right and other keypoints, RGB.

    Without left/right pairs each keypoint gets its own color.
    """
    if pairs:
        sides = {i: color for pair in pairs for i, color in zip(pair, (LEFT, RIGHT), strict=True)}
        return [sides.get(k, MIDDLE) for k in range(count)]
    hues = (colorsys.hsv_to_rgb(k / count, 0.6, 1) for k in range(count))
    return [[round(255 * part) for part in hue] for hue in hues]
