# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts unusual but unambiguous values of annotation files, such as ``"iscrowd": true``.

A rule is a function that changes an entry with such a value and then returns True, and a row of a
table with the texts of its message. Ids and file names are converted by :mod:`.ids` and
:mod:`.file_names`.
"""

import math
from typing import Any

from .file_names import find_files
from .ids import UNANNOTATED, normalize_ids
from .image_sizes import fill_sizes
from .issues import AnnotationIssue, Rule, find_issues
from .values import are_numbers, has_id, is_list_of, is_name


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
    """Removes ``num_keypoints`` if it is no count, or more than the labeled keypoints.

    A missing count is computed from the visibilities when it is needed. Smaller counts are kept,
    because those of CrowdPose exclude head and neck.
    """
    value, keypoints = annotation.get('num_keypoints', 0), annotation.get('keypoints')
    is_count = type(value) in (int, float) and value >= 0 and value == value // 1
    if is_count and not (are_numbers(keypoints) and value > _count_labeled(keypoints)):
        return False
    del annotation['num_keypoints']
    return True


def _drop_null_list(image: dict) -> bool:
    is_null = image.get(UNANNOTATED, ()) is None
    if is_null:
        del image[UNANNOTATED]
    return is_null


def _side_to_int(image: dict) -> bool:
    sides = {key: image.get(key) for key in ('width', 'height')}
    whole = {k: int(v) for k, v in sides.items() if type(v) is float and v.is_integer()}
    image.update(whole)
    return bool(whole)


def keypoint_counts(content: dict) -> dict[int, int]:
    """Returns the number of keypoint types of each category of a file, by its id.

    A category without names has as many as its first annotation with keypoints. Categories are left
    out if the file has no keypoints at all.
    """
    counts: dict[int, int] = {}
    for category in content.get('categories', []):
        if has_id(category) and is_list_of(category.get('keypoints') or [], is_name):
            counts[category['id']] = len(category.get('keypoints') or [])
    for annotation in content.get('annotations', []):
        keypoints, number = annotation.get('keypoints'), annotation.get('category_id')
        if has_id(annotation, 'category_id') and isinstance(keypoints, list):
            counts[number] = counts.get(number) or len(keypoints) // 3
    return counts if any(counts.values()) else {}


def _fill_keypoints(annotation: dict, counts: dict[int, int]) -> bool:
    count = counts.get(annotation['category_id']) if has_id(annotation, 'category_id') else None
    if count is None or annotation.get('keypoints') not in (None, []):
        return False
    annotation['keypoints'] = [0, 0, 0] * count
    return count > 0


def _add_visibilities(annotation: dict, counts: dict[int, int]) -> bool:
    """Adds the visibilities to a list of x, y, and replaces those that are null or NaN."""
    found = annotation.get('keypoints')
    if not isinstance(found, list) or not found or not has_id(annotation, 'category_id'):
        return False
    might_have = len(found) % 3 == 0 and all(visible in (0, 1, 2) for visible in found[2::3])
    pairs = len(found) == 2 * counts.get(annotation['category_id'], 0) and not might_have
    step = 2 if pairs else 3
    if len(found) % step or not (pairs or any(map(_is_missing, found[2::3]))):
        return False
    keypoints = []
    for i in range(0, len(found), step):
        x, y, visible = [*found[i : i + step], None][:3]
        if _is_missing(visible):
            labeled = not (_is_missing(x) or _is_missing(y) or x == y == 0)
            x, y, visible = (x, y, 2) if labeled else (0, 0, 0)
        keypoints += [x, y, visible]
    annotation['keypoints'] = keypoints
    return True


def _clear_negative_visibility(annotation: dict) -> bool:
    found = annotation.get('keypoints')
    if not isinstance(found, list) or not any(map(_is_negative, found[2::3])):
        return False
    found[2::3] = [0 if _is_negative(visible) else visible for visible in found[2::3]]
    return True


def _clear_unlabeled(annotation: dict) -> bool:
    """Replaces null and NaN by 0 in the coordinates of keypoints with visibility 0."""
    found = annotation.get('keypoints')
    if not isinstance(found, list) or not any(map(_is_missing, found)):
        return False
    changed = False
    for i in range(0, len(found) - 2, 3):
        if found[i + 2] == 0 and (_is_missing(found[i]) or _is_missing(found[i + 1])):
            found[i : i + 2], changed = [0, 0], True
    return changed


def _shift_skeleton(category: dict, counts: dict[int, int]) -> bool:
    links, count = _links(category), _count_of(category, counts)
    ends = [end for link in links for end in link]
    if not ends or min(ends) != 0 or max(ends) >= count:
        return False
    category['skeleton'] = [[a + 1, b + 1] for a, b in links]
    return True


def _drop_links(category: dict, counts: dict[int, int]) -> bool:
    links, count = _links(category), _count_of(category, counts)
    kept = [link for link in links if 1 <= min(link) <= max(link) <= count]
    if len(kept) < len(links):
        category['skeleton'] = kept
    return len(kept) < len(links)


def _links(category: dict) -> list[list[int]]:
    """Returns the skeleton of a category if it is a list of pairs of integers, or no links."""
    links = category.get('skeleton')
    is_valid = is_list_of(links, lambda x: isinstance(x, list) and [*map(type, x)] == [int, int])
    return links if is_valid else []


def _count_of(category: dict, counts: dict[int, int]) -> int:
    return counts.get(category['id'], 0) if has_id(category) else 0


def _is_empty(annotation: dict) -> bool:
    """Returns whether a box has neither width nor height nor a labeled keypoint."""
    box, keypoints = annotation.get('bbox'), annotation.get('keypoints') or []
    no_size = are_numbers(box) and len(box) == 4 and box[2] == box[3] == 0
    return no_size and isinstance(keypoints, list) and not any(map(_is_positive, keypoints[2::3]))


def _count_labeled(keypoints: list[float]) -> int:
    return sum(visible > 0 for visible in keypoints[2::3])


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def _is_negative(value: Any) -> bool:
    return type(value) in (int, float) and value < 0


NORMALIZATIONS = dict(
    annotations=(
        Rule(
            'annotations with negative visibilities',
            'read as 0, not labeled',
            _clear_negative_visibility,
        ),
        Rule(
            'annotations with NaN or null as coordinates of unlabeled keypoints',
            'read as 0',
            _clear_unlabeled,
        ),
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
            "annotations whose 'num_keypoints' is no count or more than the labeled keypoints",
            'counted again',
            _drop_wrong_count,
        ),
    ),
    images=(
        Rule(f"images whose '{UNANNOTATED}' is null", 'read as empty', _drop_null_list),
        Rule(
            "images whose 'width' or 'height' has decimals", 'read as whole numbers', _side_to_int
        ),
    ),
)
# Context: number of keypoint types by category id.
CATEGORY_RULES = (
    Rule("categories whose 'skeleton' counts from 0", 'read as counted from 1', _shift_skeleton),
    Rule(
        "categories whose 'skeleton' has links to keypoints that do not exist",
        'these links are left out',
        _drop_links,
    ),
)
KEYPOINT_RULES = (
    Rule(
        "annotations without 'keypoints'",
        'no keypoint is labeled: training learns their box and category',
        _fill_keypoints,
    ),
    Rule(
        'annotations with keypoints without visibility',
        'read as 2, labeled, or as 0 without coordinates or at 0, 0',
        _add_visibilities,
    ),
)
EMPTY = Rule('annotations with a box of size 0 and no labeled keypoint', 'left out', _is_empty)


def normalize(content: dict, folder: str | None = None) -> list[AnnotationIssue]:
    """Applies all rules to the lists of a file, in place.

    Args:
        content: Content of the file.
        folder: Folder of the image files, in which foreign file names and missing sizes are looked
            up; None leaves them.

    Returns:
        For each rule that applied, which entries it changed and how.
    """
    images, annotations = content.get('images', []), content.get('annotations', [])
    issues = normalize_ids(content)
    if empty := find_issues('annotations', annotations, [EMPTY]):
        left_out = set(empty[0].indices)
        annotations = [a for i, a in enumerate(annotations) if i not in left_out]
        content['annotations'] = annotations
        issues += empty
    if folder is not None:
        issues += find_files(images, folder)
    counts = keypoint_counts(content)
    issues += find_issues('categories', content.get('categories', []), CATEGORY_RULES, counts)
    issues += find_issues('annotations', annotations, KEYPOINT_RULES, counts)
    for kind, rules in NORMALIZATIONS.items():
        issues += find_issues(kind, content.get(kind, []), rules)
    return issues + fill_sizes(images, folder)
