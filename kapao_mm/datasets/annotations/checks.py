# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds errors in a COCO-format annotation file before training or evaluation starts.

MMPose and COCO's tools raise a KeyError for most of these errors, and silently drop or overwrite
entries for the others.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ..metainfo import category_ids

SHOWN = 3  # number of ids in a message
LIMIT = 1e9  # px; larger numbers cannot be coordinates, and their squares might overflow float32
LARGEST_FLOAT32 = 3.4e38
LARGEST_SIDE = 2**31 - 1  # px
UNPRINTABLE = re.compile('[\0\ud800-\udfff]')  # NUL and surrogates
COCO_FORMAT = 'write it in COCO format, an object with the lists images, annotations and categories'
KEYPOINT_FILE = 'use a file of keypoint annotations (COCO: person_keypoints_*.json), or add'


class Finding(NamedTuple):
    """An issue with some entries of an annotation file.

    Attributes:
        kind: Kind of the entries: 'file', 'metainfo' (keypoint types), 'images', 'annotations' or
            'categories'.
        what: Description of the entries, such as "annotations without 'bbox'".
        remedy: What to do about them, or how they are treated.
        ids: Ids of the entries; for an entry with an invalid id a text with its position.
        places: Indices of the entries in the list named by ``kind``.
    """

    kind: str
    what: str
    remedy: str
    ids: Sequence[int | str] = ()
    places: Sequence[int] = ()

    def __str__(self) -> str:
        return f'{self.what}{": " if self.ids else ""}{self.first_ids()}; {self.remedy}'

    def first_ids(self) -> str:
        """Returns a text with the first few ids and the number of further ones."""
        more = len(self.ids) - SHOWN
        return ', '.join(map(str, self.ids[:SHOWN])) + (f' and {more} more' if more > 0 else '')


def fatal_faults(annotations: Any, metainfo: dict, test_mode: bool = False) -> list[Finding]:
    """Finds the errors that make training or evaluation impossible or wrong.

    Args:
        annotations: Content of a COCO-format file.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
        test_mode: Whether the file is used for evaluation, which needs ``categories`` but may lack
            ``annotations`` (COCO's test sets). Otherwise it is used for training.

    Returns:
        The errors. Single entries are checked only if the lists of the file are valid.
    """
    faults = file_faults(annotations, metainfo, test_mode) or [
        _one_way_flips(metainfo),
        *image_faults(annotations['images']),
        *annotation_faults(annotations),
        *metainfo_faults(annotations, metainfo),
    ]
    return found_only(faults)


def found_only(faults: Sequence[Finding]) -> list[Finding]:
    """Returns the findings that concern the whole file or at least one entry."""
    return [fault for fault in faults if fault.ids or fault.kind == 'file']


def structure_faults(annotations: Any, needed: Sequence[str]) -> list[Finding]:
    """Checks that the lists of a file exist and contain objects.

    Args:
        annotations: Content of a COCO-format file.
        needed: Keys of the lists that must exist; the other lists are checked if they exist.
    """
    if not isinstance(annotations, dict):
        kind = type(annotations).__name__
        return [Finding('file', f'it is a {kind}, not an object', COCO_FORMAT)]
    faults = []
    for key in ('images', 'annotations', 'categories'):
        entries = annotations.get(key, None if key in needed else [])
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            faults.append(Finding('file', f'it has no list of objects {key!r}', COCO_FORMAT))
    return faults


def without_faulty(annotations: dict, faults: Sequence[Finding]) -> dict:
    """Returns the annotations without the images and annotations that have errors.

    Annotations of removed images are removed, too.

    Args:
        annotations: Content of a COCO-format file.
        faults: Errors of images and annotations; none may concern the whole file.
    """
    images, entries = (
        _others(annotations.get(kind, []), [f.places for f in faults if f.kind == kind])
        for kind in ('images', 'annotations')
    )
    ids = {image['id'] for image in images}
    return annotations | dict(
        images=images, annotations=[entry for entry in entries if entry['image_id'] in ids]
    )


def categories_by_id(annotations: dict, metainfo: dict) -> dict[int, int]:
    """Returns a dict from category ids of the file to category indices of the model."""
    found = category_ids(metainfo | dict(CLASSES=annotations.get('categories', [])))
    return {number: index for index, numbers in enumerate(found) for number in numbers}


def find_entries(
    kind: str, entries: list[dict], what: str, remedy: str, wrong: Callable[[dict], bool]
) -> Finding:
    """Finds the entries of a list for which a function returns True.

    Args:
        kind: Name of the list, see :class:`Finding`.
        entries: The list.
        what: Description of the found entries.
        remedy: What to do about them.
        wrong: Function that returns whether an entry is to be found.
    """
    places = [i for i, entry in enumerate(entries) if wrong(entry)]
    ids = [
        entries[i]['id'] if has_id(entries[i]) else f'{kind}[{i}] (id {entries[i].get("id")!r})'
        for i in places
    ]
    return Finding(kind, what, remedy, list(dict.fromkeys(ids)), places)


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


def has_id(entry: dict, key: str = 'id') -> bool:
    """Returns whether an id in an entry is an integer of 64 bits.

    Args:
        entry: Entry of the annotation file.
        key: Key of the id.
    """
    value = entry.get(key)
    return type(value) is int and abs(value) < 2**63  # excludes bool


def file_faults(annotations: Any, metainfo: dict, test_mode: bool) -> list[Finding]:
    """Finds errors in the lists of a file and in its categories."""
    several = len(metainfo['categories']) > 1
    needed = dict(images=True, annotations=not test_mode, categories=test_mode or several)
    needed = [key for key in needed if needed[key]]
    faults = structure_faults(annotations, needed)
    if not faults:
        faults = [
            Finding('file', f'it lists no {key}', 'list those of the annotations')
            for key in needed
            if key != 'annotations' and not annotations[key]
        ]
    if faults:
        return faults
    categories = annotations.get('categories', [])
    unnamed = find_entries(
        'categories',
        categories,
        "categories without 'name'",
        'name them as the metainfo does',
        lambda entry: several and not isinstance(entry.get('name'), str),
    )
    faults = [*id_faults('categories', categories), unnamed]
    return [fault._replace(kind='file') for fault in faults if fault.ids]


def _one_way_flips(metainfo: dict) -> Finding:
    """Finds keypoint types whose left/right swap is not mutual."""
    flip, names = metainfo['flip_indices'], metainfo['keypoint_id2name']
    return Finding(
        'metainfo',
        f'keypoint types of {metainfo["dataset_name"]!r} that do not swap with each other',
        "write each one's name as swap of the other",
        [names[i] for i in range(len(flip)) if flip[flip[i]] != i],
    )


def image_faults(images: list[dict]) -> list[Finding]:
    """Checks images for id, file name and size; findings without ids mean no error."""
    return [
        *id_faults('images', images),
        find_entries(
            'images',
            images,
            "images without 'file_name'",
            'write their paths inside the image folder',
            lambda image: not is_name(image.get('file_name')),
        ),
        find_entries(
            'images',
            images,
            "images without 'width' and 'height' in whole px",
            'write their sizes',
            lambda image: (
                not all(
                    type(side) is int and 0 < side <= LARGEST_SIDE
                    for side in map(image.get, ('width', 'height'))
                )
            ),
        ),
    ]


def annotation_faults(annotations: dict) -> list[Finding]:
    """Checks annotations without a metainfo; findings without ids mean no error."""
    entries = annotations.get('annotations', [])
    images = {image['id'] for image in annotations['images'] if has_id(image)}
    listed = {entry['id'] for entry in annotations.get('categories', []) if has_id(entry)}

    def find(what: str, remedy: str, wrong: Callable[[dict], bool]) -> Finding:
        return find_entries('annotations', entries, what, remedy, wrong)

    return [
        *id_faults('annotations', entries),
        find(
            'annotations of images that the file does not list',
            'list the images, or take the annotations out',
            lambda entry: not (has_id(entry, 'image_id') and entry['image_id'] in images),
        ),
        find(
            "annotations whose 'category_id' is none of the file's categories",
            'list the category, or correct them',
            lambda entry: not _is_listed(entry, listed),
        ),
        find(
            "annotations without 'bbox'",
            f'{KEYPOINT_FILE} it',
            lambda entry: entry.get('bbox') is None,
        ),
        find(
            "annotations whose 'bbox' is not four finite numbers",
            'write x, y, width and height in px',
            lambda entry: (
                entry.get('bbox') is not None
                and not (are_numbers(entry['bbox']) and len(entry['bbox']) == 4)
            ),
        ),
        find(
            "annotations without 'keypoints'",
            f'{KEYPOINT_FILE} them',
            lambda entry: entry.get('keypoints') is None,
        ),
        find(
            "annotations whose 'keypoints' are not a list of finite numbers",
            'write x, y and visibility of each in one list, 0, 0, 0 where it is not labelled',
            lambda entry: (
                entry.get('keypoints') is not None and not are_numbers(entry['keypoints'])
            ),
        ),
        find(
            "annotations whose 'iscrowd' is not 0 or 1",
            'write 1 for a region with many objects that nobody labelled one by one, otherwise 0',
            lambda entry: entry.get('iscrowd', 0) not in (0, 1),
        ),
        find(
            "annotations whose 'area' is not a number",
            'write the area of the object in px, or take it out',
            lambda entry: not _is_number(entry.get('area', 0)),
        ),
    ]


def metainfo_faults(annotations: dict, metainfo: dict) -> list[Finding]:
    """Checks that annotations fit the metainfo; findings without ids mean no error."""
    entries = annotations.get('annotations', [])
    listed = {category['id'] for category in annotations.get('categories', [])}
    known = categories_by_id(annotations, metainfo)
    names = ', '.join(category['name'] for category in metainfo['categories'])

    def category_of(entry: dict) -> int | None:
        """Returns the model's category of an annotation, or None if there is none."""
        if not _is_listed(entry, listed):
            return None
        return known.get(entry['category_id']) if listed else 0

    def other_count(index: int, category: dict) -> Finding:
        """Finds annotations of a category whose number of keypoints differs from the metainfo."""
        count = len(category['keypoint_ids'])
        fault = find_entries(
            'annotations',
            entries,
            '',
            'give the metainfo that describes this file',
            lambda entry: (
                category_of(entry) == index
                and are_numbers(entry.get('keypoints'))
                and len(entry['keypoints']) != 3 * count
            ),
        )
        found = sorted({len(entries[i]['keypoints']) / 3 for i in fault.places})
        numbers = ' or '.join(f'{number:g}' for number in found)
        what = f'annotations with {numbers} keypoints, the metainfo of {category["name"]!r} has'
        return fault._replace(what=f'{what} {count}')

    return [
        find_entries(
            'annotations',
            entries,
            f'annotations of categories other than {names}, those of the metainfo',
            'name categories alike in both, or take the annotations out',
            lambda entry: _is_listed(entry, listed) and category_of(entry) is None,
        ),
        *(other_count(*numbered) for numbered in enumerate(metainfo['categories'])),
    ]


def category_faults(categories: list[dict]) -> list[Finding]:
    """Checks categories from which a metainfo or a merged file will be made.

    Findings without ids mean no error.
    """

    def find(what: str, remedy: str, wrong: Callable[[dict], bool]) -> Finding:
        return find_entries('categories', categories, what, remedy, wrong)

    return [
        *id_faults('categories', categories),
        find(
            "categories without 'name'",
            'write their names',
            lambda entry: not is_name(entry.get('name')),
        ),
        find(
            "categories whose 'keypoints' are not a list of names",
            'write the name of each keypoint type',
            lambda entry: not _are_names(entry.get('keypoints') or []),
        ),
        find(
            "categories whose 'skeleton' is not a list of pairs of numbers",
            'write each link as [keypoint, keypoint], counted from 1, or take it out',
            lambda entry: not _are_links(entry.get('skeleton') or []),
        ),
    ]


def id_faults(kind: str, entries: list[dict]) -> list[Finding]:
    """Finds entries whose id is not an integer or is used more than once.

    Findings without ids mean no error.
    """
    count = Counter(entry['id'] for entry in entries if has_id(entry))
    return [
        find_entries(
            kind,
            entries,
            f'{kind} whose id is not a whole number',
            'number them 1, 2, 3, ... wherever the file names their ids',
            lambda entry: not has_id(entry),
        ),
        find_entries(
            kind,
            entries,
            f'{kind} that share their id with others',
            'give each its own',
            lambda entry: has_id(entry) and count[entry['id']] > 1,
        ),
    ]


def _is_listed(entry: dict, listed: set[int]) -> bool:
    """Returns whether the file lists the category of an annotation, or lists no categories."""
    return has_id(entry, 'category_id') and (not listed or entry['category_id'] in listed)


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number that fits into float32; NaN counts as one."""
    return type(value) in (int, float) and not abs(value) > LARGEST_FLOAT32


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_name, value))


def _are_links(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(link, list) and [type(end) for end in link] == [int, int] for link in value
    )


def _others(entries: list[dict], places: Sequence[Sequence[int]]) -> list[dict]:
    """Returns the entries whose index is in none of the sequences of places."""
    out = set(chain.from_iterable(places))
    return [entry for i, entry in enumerate(entries) if i not in out]
