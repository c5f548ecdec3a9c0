# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the released annotations of Animal-Pose, keypoints.json.

The file has ``images`` (file names by id), ``annotations`` (``image_id``, ``category_id``, ``bbox``
as x1, y1, x2, y2, and 20 ``keypoints`` x, y, 0 or 1) and ``categories`` (cat, cow, dog, horse,
sheep) with the names of the keypoints.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError

from ..annotations.values import are_numbers, is_list_of, is_name
from ..metainfo import read_metainfo
from .coco import LABELED, make_annotation, make_category, make_content, read_image_sizes

METAINFO = dict(from_file='configs/_base_/datasets/animalpose.py')
WORDS = dict(left='l', right='r', front='f', fore='f', back='b', hind='b', rear='b', earbase='ear')


def convert_release(content: Any, path: Path, root: Path, images: str) -> tuple[dict, Counter]:
    """Converts the content of the release to COCO format, with the keypoints in MMPose's order.

    Args:
        content: Content of keypoints.json.
        path: The file, for messages.
        root: Folder of the dataset, to which file names are relative.
        images: Folder of the images in ``root``.

    Returns:
        The content of the COCO file, and counts of what was converted and left out.

    Raises:
        InputError: If the content has another form, or an image is missing.
    """
    _check_form(content, path)
    names = list(read_metainfo(METAINFO)['keypoint_name2id'])
    categories = {c['id']: c for c in content['categories']}
    orders = {key: _order(path, c.get('keypoints'), names) for key, c in categories.items()}
    ids = sorted(content['images'], key=_number)
    files = [Path(images) / content['images'][i] for i in ids]
    sizes = read_image_sizes([root / file for file in files])
    counts, by_image = Counter(images=len(ids), animals=0), {i: [] for i in ids}
    for number, annotation in enumerate(content['annotations']):
        where = f'{path}, annotations[{number}]'
        image, category = str(annotation.get('image_id')), annotation.get('category_id')
        if image not in by_image:
            raise InputError(f'{where}: image_id {image} is not in images')
        if type(category) is not int or category not in categories:
            raise InputError(f'{where}: category_id {category!r} is not in categories')
        converted = _convert(where, annotation, orders[category])
        counts['boxes without an area (left out)'] += not converted
        by_image[image] += [converted] if converted else []
    counts['animals'] = sum(map(len, by_image.values()))
    rows = zip((file.as_posix() for file in files), sizes, by_image.values(), strict=True)
    listed = [make_category(key, c['name'], names) for key, c in categories.items()]
    return make_content(rows, listed), counts


def _check_form(content: Any, path: Path) -> None:
    """Raises an InputError if the lists of the file have another form."""
    lists = dict.fromkeys(['annotations', 'categories'], lambda entry: isinstance(entry, dict))
    is_release = (
        isinstance(content, dict)
        and all(is_list_of(content.get(key), is_entry) for key, is_entry in lists.items())
        and isinstance(content.get('images'), dict)
        and all(map(is_name, content['images'].values()))
        and all(type(c.get('id')) is int and is_name(c.get('name')) for c in content['categories'])
    )
    if not is_release:
        raise InputError(
            f'{path} is not keypoints.json of Animal-Pose, which has images (file names by id), '
            'annotations and categories with id and name'
        )


def _order(path: Path, found: Any, names: Sequence[str]) -> list[int]:
    """Returns the index in the file of each keypoint of MMPose, by their names."""
    if not is_list_of(found, is_name):
        raise InputError(f'{path}: categories have no names of keypoints')
    index = {_simplify(name): i for i, name in enumerate(found)}
    missing = [name for name in names if _simplify(name) not in index]
    if missing or len(found) != len(names):
        raise InputError(
            f'{path}: its keypoints ({", ".join(found)}) are not those of MMPose '
            f'({", ".join(missing or names)})'
        )
    return [index[_simplify(name)] for name in names]


def _simplify(name: str) -> str:
    """Returns the words of a name in one spelling: left_front_elbow and L_F_Elbow are lfelbow."""
    name = re.sub(r'base$', '', name.lower().replace(' ', '_').replace('-', '_')).strip('_')
    return ''.join(WORDS.get(word, word) for word in name.split('_'))


def _number(key: str) -> tuple[int, str]:
    return (int(key) if key.isdecimal() else 0), key


def _convert(where: str, annotation: dict, order: Sequence[int]) -> dict | None:
    """Returns the annotation in COCO format, without ids; None if its box has no area."""
    box, keypoints = annotation.get('bbox'), annotation.get('keypoints')
    if not are_numbers(box) or len(box) != 4:
        raise InputError(f'{where}: bbox {box} is not x1, y1, x2, y2')
    if are_numbers(keypoints):  # one list instead of one for each keypoint
        keypoints = [keypoints[i : i + 3] for i in range(0, len(keypoints), 3)]
    is_rows = is_list_of(keypoints, lambda row: are_numbers(row) and len(row) == 3)
    if not is_rows or len(keypoints) != len(order):
        raise InputError(f'{where}: keypoints are not {len(order)} times x, y, 0 or 1')
    if {v for *_, v in keypoints} - {0, 1}:
        raise InputError(f'{where}: a keypoint is neither 0 (not labeled) nor 1')
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return None
    rows = [(x, y, LABELED) if v else (0, 0, 0) for x, y, v in (keypoints[i] for i in order)]
    return make_annotation(annotation['category_id'], [x1, y1, x2 - x1, y2 - y1], rows)
