# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares the keypoint names of an annotation file with the metainfo, and orders its keypoints."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .issues import AnnotationIssue, Rule, find_issues
from .values import has_id, is_list_of, is_name

WORD = re.compile(r'[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+')  # left eye, leftEye, L_Eye
ABBREVIATIONS = dict(l='left', r='right', f='front', b='back')
ALIASES = {('top', 'head'): ('head',)}  # CrowdPose: MMPose's name, and that of the released files


def find_order(found: Sequence[str], expected: Sequence[str]) -> list[int] | None:
    """Returns the index in ``found`` of each expected name, or None if the names are others.

    Spellings such as ``L_Eye`` and ``left_eye`` (both in use for AP-10K) count as the same name.
    """
    spellings: tuple[Callable[[str], Any], ...] = (str, _words, _usual_words)
    for spell in spellings:
        places = {spell(name): i for i, name in enumerate(found)}
        wanted = [spell(name) for name in expected]
        if len(places) == len(found) == len(wanted) and places.keys() == set(wanted):
            return [places[name] for name in wanted]
    return None


def name_faults(
    content: dict, metainfo: Mapping[str, Any], known: Mapping[int, int]
) -> list[AnnotationIssue]:
    """Finds annotations of categories whose keypoint names are not those of the metainfo.

    Args:
        content: Content of the file.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
        known: Indices of the model's categories by the category ids of the file.
    """
    differences = {
        entry['id']: _difference(entry['keypoints'], expected)
        for entry, expected in _named_categories(content, metainfo, known)
        if find_order(entry['keypoints'], expected) is None
    }
    rule = Rule(
        '',
        'name them alike in both, or use the metainfo of this file',
        lambda a: has_id(a, 'category_id') and a['category_id'] in differences,
    )
    annotations = content.get('annotations', [])
    faults = find_issues('annotations', annotations, [rule])
    examples = [differences[annotations[fault.indices[0]]['category_id']] for fault in faults]
    what = 'annotations whose category names other keypoints than the metainfo'
    return [
        fault._replace(what=f'{what} ({example})')
        for fault, example in zip(faults, examples, strict=True)
    ]


def order_keypoints(
    content: dict, metainfo: Mapping[str, Any], known: Mapping[int, int]
) -> list[AnnotationIssue]:
    """Puts keypoints that a category lists in another order into that of the metainfo, in place.

    The arguments are those of :func:`name_faults`.

    Returns:
        Which annotations were changed.
    """
    orders = {}
    for entry, expected in _named_categories(content, metainfo, known):
        order = find_order(entry['keypoints'], expected)
        if order not in (None, sorted(order or ())):
            orders[entry['id']] = order
            entry['keypoints'] = list(expected)
    return reorder_annotations(content.get('annotations', []), orders)


def reorder_annotations(
    annotations: list[dict], orders: Mapping[int, Sequence[int]]
) -> list[AnnotationIssue]:
    """Changes the order of the keypoints of annotations, in place.

    Args:
        annotations: Annotations of a file.
        orders: For category ids the old index of each keypoint, (K,).

    Returns:
        Which annotations were changed.
    """
    rule = Rule(
        'annotations whose category names the keypoints in another order than the metainfo',
        'put into the order of the metainfo',
        lambda a: has_id(a, 'category_id') and _reorder(a, orders.get(a['category_id'])),
    )
    return find_issues('annotations', annotations, [rule])


def _reorder(annotation: dict, order: Sequence[int] | None) -> bool:
    """Changes the order of the keypoints of an annotation; returns whether there is an order."""
    old = annotation.get('keypoints')
    if order is None or not isinstance(old, list) or len(old) != 3 * len(order):
        return False
    annotation['keypoints'] = [v for i in order for v in old[3 * i : 3 * i + 3]]
    return True


def _named_categories(
    content: dict, metainfo: Mapping[str, Any], known: Mapping[int, int]
) -> Iterator[tuple[dict, list[str]]]:
    """Yields the categories of the file that name keypoints, and the names in the metainfo."""
    names = metainfo.get('keypoint_id2name', {})
    for entry in content.get('categories', []):
        if not (has_id(entry) and entry['id'] in known):
            continue
        category = metainfo['categories'][known[entry['id']]]
        prefix = f'{category["name"]}/'
        expected = [names.get(i, '').removeprefix(prefix) for i in category['keypoint_ids']]
        if entry.get('keypoints') and is_list_of(entry['keypoints'], is_name) and all(expected):
            yield entry, expected


def _difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Returns names that only one of two lists has, or that occur twice, as an example."""
    if len(found) != len(expected):
        return f'{len(found)} names for {len(expected)} keypoints'
    only, missing = (sorted(set(a) - set(b)) for a, b in ((found, expected), (expected, found)))
    if not only:
        return f'{next(name for name in found if found.count(name) > 1)} twice'
    return f'{only[0]} instead of {missing[0]}'


def _words(name: str) -> tuple[str, ...]:
    """Splits a name into words in lower case, without abbreviations of sides."""
    words = (word.lower() for word in WORD.findall(name))
    return tuple(ABBREVIATIONS.get(word, word) for word in words)


def _usual_words(name: str) -> tuple[str, ...]:
    return ALIASES.get(_words(name), _words(name))
