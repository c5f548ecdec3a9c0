# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Judges single values of annotation files."""

import math
import re
from collections.abc import Callable
from typing import Any

LIMIT = 1e9  # px; larger numbers cannot be coordinates, and their squares might overflow float32
LARGEST_FLOAT32 = 3.4e38
UNPRINTABLE = re.compile('[\0\ud800-\udfff]')  # NUL and surrogates


def has_id(entry: dict, key: str = 'id') -> bool:
    """Returns whether an entry of a file has an id that is an integer of 64 bits."""
    value = entry.get(key)
    return type(value) is int and abs(value) < 2**63  # excludes bool


def valid_ids(entries: list[dict]) -> set[int]:
    """Returns the valid ids of the entries of a list."""
    return {entry['id'] for entry in entries if has_id(entry)}


def is_list_of(value: Any, is_item: Callable[[Any], bool]) -> bool:
    """Returns whether a value is a list whose items all fulfill a condition."""
    return isinstance(value, list) and all(map(is_item, value))


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


def is_number(value: Any) -> bool:
    """Returns whether a value is a number that fits into float32; NaN counts as one."""
    return type(value) in (int, float) and not abs(value) > LARGEST_FLOAT32


def is_name(value: Any) -> bool:
    """Returns whether a value is a text that can be printed and be part of a file name."""
    return isinstance(value, str) and bool(value) and not UNPRINTABLE.search(value)
