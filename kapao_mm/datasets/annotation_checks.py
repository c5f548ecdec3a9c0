# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Faults of a COCO-format annotation file, found before training or evaluation stumbles over them.

MMPose and COCO's tools fail on most of these with a KeyError, and drop or overwrite the rest.
"""

import json
import math
import os.path as osp
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from kapao_mm.errors import InputError

from .metainfo import category_ids

SHOWN = 3  # ids in a message
KEYPOINT_FILE = 'use a file of keypoint annotations (COCO: person_keypoints_*.json), or add'


class Finding(NamedTuple):
    """Something about some entries of an annotation file.

    Attributes:
        kind: What they are: 'file', 'metainfo' (keypoint types), 'images', 'annotations' or
            'categories'.
        what: Names them, as in "annotations without 'bbox'".
        remedy: What to do, or what becomes of them.
        ids: Theirs; of an entry without a proper id its place.
        places: Theirs in the list of ``kind``.
    """

    kind: str
    what: str
    remedy: str
    ids: Sequence[int | str] = ()
    places: Sequence[int] = ()

    def __str__(self) -> str:
        return f'{self.what}{": " if self.ids else ""}{self.first_ids()}; {self.remedy}'

    def first_ids(self) -> str:
        """The first few ids, and how many more there are."""
        more = len(self.ids) - SHOWN
        return ', '.join(map(str, self.ids[:SHOWN])) + (f' and {more} more' if more > 0 else '')


def read_annotations(path: str) -> Any:
    """Reads an annotation file.

    Raises:
        InputError: it is missing or not JSON.
    """
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f'annotation file {osp.abspath(path)}: {error.strerror}') from error
    except ValueError as error:  # of the decoders
        raise InputError(
            f'annotation file {osp.abspath(path)} is not JSON ({error}): download or write it anew'
        ) from error


def fatal_faults(annotations: Any, metainfo: dict, test_mode: bool = False) -> list[Finding]:
    """What makes training or evaluation impossible or wrong.

    Args:
        annotations: Content of a COCO-format file.
        metainfo: As :func:`read_metainfo` returns it.
        test_mode: For evaluation, which finds no ground truth without ``categories``, but can do
            without ``annotations`` (COCO's test sets); else for training.

    Returns:
        The faults. Those of entries are looked for only where the lists are as they should be.
    """
    faults = _file_faults(annotations, metainfo, test_mode) or [
        _one_way_flips(metainfo),
        *image_faults(annotations['images']),
        *_annotation_faults(annotations, metainfo),
    ]
    return [fault for fault in faults if fault.ids or fault.kind == 'file']


def without_faulty(annotations: dict, faults: Sequence[Finding]) -> dict:
    """The same without the images and annotations that have faults, none of them of the file."""
    images, entries = (
        _others(annotations.get(kind, []), [f.places for f in faults if f.kind == kind])
        for kind in ('images', 'annotations')
    )
    ids = {image['id'] for image in images}
    return annotations | dict(
        images=images, annotations=[entry for entry in entries if entry['image_id'] in ids]
    )


def categories_by_id(annotations: dict, metainfo: dict) -> dict[int, int]:
    """The model's category of each of the file's category ids."""
    found = category_ids(metainfo | dict(CLASSES=annotations.get('categories', [])))
    return {number: index for index, numbers in enumerate(found) for number in numbers}


def find_entries(
    kind: str, entries: list[dict], what: str, remedy: str, wrong: Callable[[dict], bool]
) -> Finding:
    """Finds the entries of a list that are wrong."""
    places = [i for i, entry in enumerate(entries) if wrong(entry)]
    ids = [
        entries[i]['id'] if _has_id(entries[i]) else f'{kind}[{i}] (id {entries[i].get("id")!r})'
        for i in places
    ]
    return Finding(kind, what, remedy, list(dict.fromkeys(ids)), places)


def are_numbers(values: Any) -> bool:
    """Whether they are a list of finite numbers."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))  # one spoils the sum
    except (TypeError, OverflowError):
        return False


def _file_faults(annotations: Any, metainfo: dict, test_mode: bool) -> list[Finding]:
    """Faults of the file's lists, and of its categories."""
    coco = 'write it in COCO format, an object with the lists images, annotations and categories'
    if not isinstance(annotations, dict):
        return [Finding('file', f'it is a {type(annotations).__name__}, not an object', coco)]
    several = len(metainfo['categories']) > 1
    needed = dict(images=True, annotations=not test_mode, categories=test_mode or several)
    faults = []
    for key in needed:
        entries = annotations.get(key, None if needed[key] else [])
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            faults.append(Finding('file', f'it has no list of objects {key!r}', coco))
        elif not entries and needed[key] and key != 'annotations':
            faults.append(Finding('file', f'it lists no {key}', 'list those of the annotations'))
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
    """Keypoint types that two flips do not bring back."""
    flip, names = metainfo['flip_indices'], metainfo['keypoint_id2name']
    return Finding(
        'metainfo',
        f'keypoint types of {metainfo["dataset_name"]!r} that do not swap with each other',
        "write each one's name as swap of the other",
        [names[i] for i in range(len(flip)) if flip[flip[i]] != i],
    )


def image_faults(images: list[dict]) -> list[Finding]:
    """Images without what an image needs; findings without ids where there are none."""
    return [
        *id_faults('images', images),
        find_entries(
            'images',
            images,
            "images without 'file_name'",
            'write their paths inside the image folder',
            lambda image: not (isinstance(image.get('file_name'), str) and image['file_name']),
        ),
        find_entries(
            'images',
            images,
            "images without 'width' and 'height' in whole px",
            'write their sizes',
            lambda image: (
                not all(
                    type(side) is int and side > 0 for side in map(image.get, ('width', 'height'))
                )
            ),
        ),
    ]


def _annotation_faults(annotations: dict, metainfo: dict) -> list[Finding]:
    entries = annotations.get('annotations', [])
    images = {image['id'] for image in annotations['images'] if _has_id(image)}
    listed = {category['id'] for category in annotations.get('categories', [])}
    known = categories_by_id(annotations, metainfo)
    names = ', '.join(category['name'] for category in metainfo['categories'])

    def is_listed(entry: dict) -> bool:
        return _has_id(entry, 'category_id') and (not listed or entry['category_id'] in listed)

    def category_of(entry: dict) -> int | None:
        """Its category of the model; any that is listed is that of a model of one."""
        if not is_listed(entry):
            return None
        return known.get(entry['category_id']) if listed else 0

    def find(what: str, remedy: str, wrong: Callable[[dict], bool]) -> Finding:
        return find_entries('annotations', entries, what, remedy, wrong)

    def other_count(index: int, category: dict) -> Finding:
        """The annotations of a category with another number of keypoints."""
        count = len(category['keypoint_ids'])
        fault = find(
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
        *id_faults('annotations', entries),
        find(
            'annotations of images that the file does not list',
            'list the images, or take the annotations out',
            lambda entry: not (_has_id(entry, 'image_id') and entry['image_id'] in images),
        ),
        find(
            "annotations whose 'category_id' is none of the file's categories",
            'list the category, or correct them',
            lambda entry: not is_listed(entry),
        ),
        find(
            f'annotations of categories other than {names}, those of the metainfo',
            'name categories alike in both, or take the annotations out',
            lambda entry: is_listed(entry) and category_of(entry) is None,
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
        *(other_count(*numbered) for numbered in enumerate(metainfo['categories'])),
    ]


def id_faults(kind: str, entries: list[dict]) -> list[Finding]:
    """Entries without an id to compute with, as MMPose does, or with that of another.

    Findings without ids where there are none.
    """
    count = Counter(entry['id'] for entry in entries if _has_id(entry))
    return [
        find_entries(
            kind,
            entries,
            f'{kind} whose id is not a whole number',
            'number them 1, 2, 3, ... wherever the file names their ids',
            lambda entry: not _has_id(entry),
        ),
        find_entries(
            kind,
            entries,
            f'{kind} that share their id with others',
            'give each its own',
            lambda entry: _has_id(entry) and count[entry['id']] > 1,
        ),
    ]


def _has_id(entry: dict, key: str = 'id') -> bool:
    value = entry.get(key)
    return type(value) is int and abs(value) < 2**63  # no bool; it fits into an array


def _others(entries: list[dict], places: Sequence[Sequence[int]]) -> list[dict]:
    """The entries that are at none of the places."""
    out = set(chain.from_iterable(places))
    return [entry for i, entry in enumerate(entries) if i not in out]
