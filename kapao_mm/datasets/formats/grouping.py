# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Joins boxes and keypoints that were labeled separately, as in Label Studio, to objects."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from kapao_mm.errors import InputError

from .coco import LABELED, box_around, make_annotation, make_category, make_content

# How far a keypoint may be outside its box, relative to the longer side of the box.
MARGIN = 0.1
AMBIGUOUS = 'keypoints that may belong to several boxes (left out)'
OUTSIDE = 'keypoints that are in no box (left out)'
REPEATED = 'keypoints of a name that their box already has (left out)'
LEFT_OUT = (AMBIGUOUS, OUTSIDE, REPEATED)


class Box(NamedTuple):
    """A labeled box: its id, its category, and x, y, width and height in px."""

    id: Any
    category: str
    xywh: tuple[float, float, float, float]


class Keypoint(NamedTuple):
    """A labeled keypoint: its name, x and y in px, and the id of its box if it is known."""

    name: str
    x: float
    y: float
    parent: Any = None


class LabeledImage(NamedTuple):
    """The boxes and keypoints of an image of size (w, h) px; ``where`` is its name in messages."""

    where: str
    file_name: str
    size: tuple[int, int]
    boxes: list[Box]
    keypoints: list[Keypoint]


def assign(
    boxes: Sequence[Box], keypoints: Sequence[Keypoint], counts: Counter
) -> list[int | None]:
    """Returns the index of the box of each keypoint; None if there is none or it is not clear.

    In this order, a keypoint belongs to the box that it names, to the box around it, or to the box
    that it is close to. Of several such boxes, it belongs to the only one that has no keypoint of
    its name yet.

    Args:
        boxes: Boxes of an image that may have keypoints.
        keypoints: Keypoints of this image.
        counts: Numbers of keypoints by the way they were assigned or left out; changed in place.
    """
    owners, rest, taken = [None] * len(keypoints), list(range(len(keypoints))), set()
    for way, fits in WAYS.items():
        found = {i: [b for b, box in enumerate(boxes) if fits(box, keypoints[i])] for i in rest}
        rest = [i for i in rest if not found[i]]
        open_ = {i: candidates for i, candidates in found.items() if candidates}
        while claims := _sole_claims(keypoints, open_, taken):
            for (box, name), claimants in claims.items():
                taken.add((box, name))
                counts[REPEATED if claimants[1:] else way] += len(claimants)
                for i in claimants:
                    owners[i] = None if claimants[1:] else box
                    del open_[i]
        for i, candidates in open_.items():
            free = any((box, keypoints[i].name) not in taken for box in candidates)
            counts[AMBIGUOUS if free else REPEATED] += 1
    counts[OUTSIDE] += len(rest)
    return owners


def _sole_claims(
    keypoints: Sequence[Keypoint], open_: dict[int, list[int]], taken: Collection[tuple[int, str]]
) -> dict[tuple[int, str], list[int]]:
    """Returns the keypoints that may belong to one box only, by this box and their name."""
    claims = defaultdict(list)
    for i, candidates in open_.items():
        free = [box for box in candidates if (box, keypoints[i].name) not in taken]
        if len(free) == 1:
            claims[free[0], keypoints[i].name].append(i)
    return claims


def _distance(box: Box, keypoint: Keypoint) -> float:
    """Returns how far a keypoint is outside a box, relative to the box's longer side."""
    x, y, w, h = box.xywh
    dx = max(x - keypoint.x, keypoint.x - x - w, 0)
    dy = max(y - keypoint.y, keypoint.y - y - h, 0)
    return max(dx, dy) / max(w, h)


WAYS = {  # by what a keypoint belongs to a box, the surest first
    'keypoints by their parent': lambda box, point: (
        point.parent is not None and point.parent == box.id
    ),
    'keypoints in a box': lambda box, point: _distance(box, point) == 0,
    'keypoints close to a box': lambda box, point: _distance(box, point) <= MARGIN,
}


def join(
    images: Sequence[LabeledImage],
    categories: Sequence[str],
    names: Sequence[str],
    plain: Collection[str],
    stop: bool,
) -> tuple[dict, Counter]:
    """Joins the boxes and keypoints of images, and returns them in COCO format.

    An image with keypoints but no box gets a box around them, if no name occurs twice.

    Args:
        images: The labeled images.
        categories: Categories of the boxes, in order.
        names: Names of the keypoints, in order.
        plain: Categories without keypoints.
        stop: Whether a keypoint that would be left out is an error.

    Returns:
        The content of the COCO file, and counts of what was joined and left out.

    Raises:
        InputError: If ``plain`` names unknown categories, or because of ``stop``.
    """
    if unknown := set(plain) - set(categories):
        raise InputError(f'no box is a {sorted(unknown)[0]!r}; boxes: {", ".join(categories)}')
    posed = [category for category in categories if category not in plain] or ['object']
    counts, found = Counter(images=len(images), objects=0), []
    for image in images:
        before = sum(counts[what] for what in LEFT_OUT)
        found.append(_join_image(image, posed, counts))
        if stop and sum(counts[what] for what in LEFT_OUT) > before:
            reasons = ', '.join(what for what in LEFT_OUT if counts[what])
            raise InputError(f'{image.where}: {reasons}: correct it, or convert without --strict')
    used = {category: set(names) if len(posed) == 1 else set() for category in posed}
    for box, own in itertools.chain(*found):
        used.get(box.category, set()).update(own)
    keypoints = {c: [n for n in names if n in used.get(c, ())] for c in [*categories, *posed]}
    ids = {category: i for i, category in enumerate(keypoints, 1)}
    rows = [
        (
            image.file_name,
            image.size,
            [_annotation(ids[b.category], b, p, keypoints[b.category]) for b, p in objects],
        )
        for image, objects in zip(images, found, strict=True)
    ]
    counts['objects'] = sum(map(len, found))
    return make_content(rows, [make_category(ids[c], c, keypoints[c]) for c in ids]), counts


def _join_image(
    image: LabeledImage, posed: Sequence[str], counts: Counter
) -> list[tuple[Box, dict[str, Keypoint]]]:
    """Returns the boxes of an image, each with its keypoints by name."""
    boxes = [box for box in image.boxes if min(box.xywh[2:]) > 0]
    counts['boxes without an area (left out)'] += len(image.boxes) - len(boxes)
    candidates = [box for box in boxes if box.category in posed]
    if image.keypoints and not candidates and (box := _lone_box(image, posed)):
        counts['boxes made around keypoints'] += 1
        boxes, candidates = [*boxes, box], [box]
    owners = assign(candidates, image.keypoints, counts)
    found = {id(box): {} for box in boxes}
    for owner, keypoint in zip(owners, image.keypoints, strict=True):
        if owner is not None:
            found[id(candidates[owner])][keypoint.name] = keypoint
    return [(box, found[id(box)]) for box in boxes]


def _lone_box(image: LabeledImage, posed: Sequence[str]) -> Box | None:
    """Returns a box around all keypoints of an image; None if they may be of several objects."""
    names = {keypoint.name for keypoint in image.keypoints}
    if len(posed) > 1 or len(names) < len(image.keypoints):
        return None
    points = np.array([(keypoint.x, keypoint.y) for keypoint in image.keypoints])
    xywh = box_around(points, image.size, MARGIN)
    return xywh and Box(None, posed[0], xywh)


def _annotation(
    category_id: int, box: Box, keypoints: dict[str, Keypoint], names: Sequence[str]
) -> dict[str, Any]:
    rows = [
        (keypoints[name].x, keypoints[name].y, LABELED) if name in keypoints else (0, 0, 0)
        for name in names
    ]
    return make_annotation(category_id, box.xywh, rows)
