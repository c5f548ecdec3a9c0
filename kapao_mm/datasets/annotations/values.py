# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Judges single values of annotation files."""

import math
import re
from typing import Any

LIMIT = 1e9  # px; larger numbers cannot be coordinates, and their squares might overflow float32
LARGEST_FLOAT32 = 3.4e38
LARGEST_SIDE = 2**31 - 1  # px
UNPRINTABLE = re.compile('[\0\ud800-\udfff]')  # NUL and surrogates


def has_id(entry: dict, key: str = 'id') -> bool:
    """Returns whether an id in an entry is an integer of 64 bits.

    Args:
        entry: Entry of the annotation file.
        key: Key of the id.
    """
    value = entry.get(key)
    return type(value) is int and abs(value) < 2**63  # excludes bool


def are_numbers(values: Any) -> bool:
    """Returns whether a value is a list of numbers with magnitudes up to :data:`LIMIT`."""
    try:
        return (
            isinstance(values, list)
            and {int, float}.issuperset(map(type, values))
            and math.isfinite(sum(values))  # the sum is finite only if all numbers are
            and (not values or -LIMIT <= min(values) <= max(values) <= LIMIT)
        )
    except OverflowError:
        return False


def is_name(value: Any) -> bool:
    """Returns whether a value is a text that can be printed and be part of a file name."""
    return isinstance(value, str) and bool(value) and not UNPRINTABLE.search(value)


def are_objects(value: Any) -> bool:
    """Returns whether a value is a list of dicts."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def are_names(value: Any) -> bool:
    """Returns whether a value is a list of names, see :func:`is_name`."""
    return isinstance(value, list) and all(map(is_name, value))


def are_links(value: Any) -> bool:
    """Returns whether a value is a list of pairs of integers."""
    return isinstance(value, list) and all(
        isinstance(link, list) and [type(end) for end in link] == [int, int] for link in value
    )


def is_number(value: Any) -> bool:
    """Returns whether a value is a number that fits into float32; NaN counts as one."""
    return type(value) in (int, float) and not abs(value) > LARGEST_FLOAT32


def has_size(image: dict) -> bool:
    """Returns whether an image has a width and a height in whole px."""
    sides = image.get('width'), image.get('height')
    return all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides)
