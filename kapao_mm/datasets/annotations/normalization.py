# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts unusual but unambiguous values of annotation files, such as ``"iscrowd": true``.

A rule is a function that changes an entry with such a value and then returns True, and a row of the
table with the texts of its message.
"""

import math

from .issues import AnnotationIssue, Rule, find_issues

UNANNOTATED = 'not_exhaustive_category_ids'


def _crowd_to_number(annotation: dict) -> bool:
    value = annotation.get('iscrowd', 0)
    unusual = value is None or isinstance(value, bool) or value in ('0', '1')
    if unusual:
        annotation['iscrowd'] = int(value or 0)
    return unusual


def _area_to_number(annotation: dict) -> bool:
    value = annotation.get('area', 0)
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return False
    if value is None:
        del annotation['area']
    elif math.isfinite(number):
        annotation['area'] = number
    return value is None or math.isfinite(number)


def _drop_wrong_count(annotation: dict) -> bool:
    """Removes ``num_keypoints`` if it cannot be a valid count.

    A missing count is computed from the visibilities when it is needed. Valid counts that differ
    from the visibilities are kept, because those of CrowdPose exclude head and neck.
    """
    value, keypoints = annotation.get('num_keypoints', 0), annotation.get('keypoints')
    is_count = type(value) in (int, float) and value >= 0 and value == value // 1
    none_labeled = isinstance(keypoints, list) and not any(keypoints[2::3])
    if is_count and not (value and none_labeled):
        return False
    del annotation['num_keypoints']
    return True


def _drop_null_list(image: dict) -> bool:
    is_null = image.get(UNANNOTATED, ()) is None
    if is_null:
        del image[UNANNOTATED]
    return is_null


NORMALIZATIONS = dict(
    annotations=(
        Rule(
            "annotations whose 'iscrowd' is true, false, null or text",
            'read as 1 or 0, null as 0',
            _crowd_to_number,
        ),
        Rule(
            "annotations whose 'area' is null or text",
            'read as missing or as the number',
            _area_to_number,
        ),
        Rule(
            "annotations whose 'num_keypoints' is no number or counts unlabeled keypoints",
            'counted again',
            _drop_wrong_count,
        ),
    ),
    images=(Rule(f"images whose '{UNANNOTATED}' is null", 'read as empty', _drop_null_list),),
)


def normalize(content: dict) -> list[AnnotationIssue]:
    """Applies all rules to the lists of a file, in place.

    Returns:
        For each rule that applied, which entries it changed and how.
    """
    return [
        issue
        for kind, rules in NORMALIZATIONS.items()
        for issue in find_issues(kind, content.get(kind, []), rules)
    ]
