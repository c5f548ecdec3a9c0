# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts the ids of annotation files to whole numbers, which COCO's tools need."""

from typing import Any

from .issues import AnnotationIssue

UNANNOTATED = 'not_exhaustive_category_ids'
REFERENCES = dict(images='image_id', annotations=None, categories='category_id')
ID_TYPES = (int, float, str)
LARGEST_EXACT = 2**53  # larger floats are not exact
DIGITS = 18  # longer numbers may not fit into 64 bits


def normalize_ids(content: dict) -> list[AnnotationIssue]:
    """Converts the ids of all lists of a file and the references to them, in place.

    Whole floats and texts of digits become whole numbers. If a list has other texts as ids, its
    entries are numbered 1, 2, 3, ... in the order of the file. Ids that would then be ambiguous are
    kept for the checks.

    Returns:
        Which entries have been changed and how.
    """
    issues = []
    for kind, key in REFERENCES.items():
        entries, annotations = content.get(kind, []), content.get('annotations', [])
        referring = annotations if key else []
        values = [entry.get('id') for entry in entries]
        if not entries:  # the ids that annotations use
            used = (a.get(key) for a in referring)
            values = list(dict.fromkeys(_whole(v) for v in used if type(v) in ID_TYPES))
        numbers = _number_texts(values)
        remedy = 'numbered 1, 2, 3, ... in their order' if numbers else 'read as whole numbers'
        found = [
            (kind, 'id', _convert(entries, 'id', numbers)),
            ('annotations', key, _convert(referring, key, numbers)),
        ]
        if kind == 'categories' and found[0][2]:
            _convert_unannotated(content.get('images', []), numbers)
        changed = next((part for part in found if part[2]), None)  # references change with the ids
        if changed:
            where, name, old = changed
            what = f'{where} whose {name!r} is a text or a number with decimals'
            issues.append(AnnotationIssue(where, what, remedy, list(old.values()), list(old)))
    return issues


def _convert(entries: list[dict], key: str | None, numbers: dict[Any, int]) -> dict[int, str]:
    """Converts a value of all entries; returns the text of those changed by index."""
    changed = {}
    for index, entry in enumerate(entries):
        old = entry.get(key)
        new = _new_id(old, numbers)
        if new is not old:
            entry[key], changed[index] = new, ascii(old)
    return changed


def _convert_unannotated(images: list[dict], numbers: dict[Any, int]) -> None:
    for image in images:
        if isinstance(image.get(UNANNOTATED), list):
            image[UNANNOTATED] = [_new_id(value, numbers) for value in image[UNANNOTATED]]


def _number_texts(values: list) -> dict[Any, int]:
    """Returns a number for each id if some are texts that are not numbers and all are unique."""
    ids = [_whole(value) for value in values]
    usable = {int, str}.issuperset(map(type, ids)) and len(set(ids)) == len(ids)
    if not usable or not any(isinstance(value, str) for value in ids):
        return {}
    return {value: number for number, value in enumerate(ids, 1)}


def _new_id(value: Any, numbers: dict[Any, int]) -> Any:
    if type(value) not in ID_TYPES:
        return value
    whole = _whole(value)
    return numbers.get(whole, whole)


def _whole(value: Any) -> Any:
    """Returns the integer that a whole float or a text of digits stands for, or the value."""
    if type(value) is float and value.is_integer() and abs(value) <= LARGEST_EXACT:
        return int(value)
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) <= DIGITS:
        return int(value)
    return value
