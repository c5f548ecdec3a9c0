# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads ``data.yaml``, which describes a dataset with YOLO pose labels, and finds its images."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kapao_mm.errors import InputError
from kapao_mm.utils.image_files import IMAGE_SUFFIXES
from kapao_mm.utils.plain_yaml import PlainYamlHandler

from ..annotations.left_right import left_right_pairs
from ..annotations.values import is_list_of, is_name
from ..metainfo import read_metainfo

MAX_KEYPOINTS = 10_000  # of an object; more are a mistake
SPLITS = ('train', 'val', 'test')
COCO = dict(from_file='configs/_base_/datasets/coco.py')


class YoloData(NamedTuple):
    """A dataset with YOLO pose labels.

    Attributes:
        path: Its ``data.yaml``.
        root: Folder that contains all images.
        splits: Image files of each split.
        classes: Name and names of the K keypoints of each class, by its index.
        dims: Numbers of a keypoint: 2 (x, y) or 3 (x, y, visibility).
        notes: What was assumed, one line each.
    """

    path: Path
    root: Path
    splits: dict[str, list[Path]]
    classes: dict[int, tuple[str, list[str]]]
    dims: int
    notes: list[str]


def read_data(path: Path, names: Sequence[str], counts: Counter) -> YoloData:
    """Reads a ``data.yaml`` and lists the images of its splits.

    Args:
        path: The file.
        names: Names of the keypoints of all classes; if empty, those of ``kpt_names``, or names
            made from ``flip_idx``.
        counts: Numbers of assumptions; changed in place.

    Raises:
        InputError: If a key is missing or wrong, or a split does not exist.
    """
    content, notes = _read_yaml(path), []
    count, dims = _keypoint_shape(path, content.get('kpt_shape'))
    flips = _flips(path, content.get('flip_idx'), count)
    classes = _class_names(path, content.get('names'))
    keypoints = _keypoint_names(path, content, list(names), classes, flips, count, notes)
    root = _find_root(path, content, notes)
    splits = {
        split: _find_images(path, split, content[split], root, notes, counts)
        for split in SPLITS
        if content.get(split)
    }
    if not splits:
        raise InputError(f'{path}: none of the keys {", ".join(SPLITS)} names images')
    files = [file.parent for images in splits.values() for file in images]
    root = Path(os.path.commonpath([root, *files]))
    both = {index: (name, keypoints[index]) for index, name in classes.items()}
    return YoloData(path, root, splits, both, dims, notes)


def label_path(image: Path) -> Path:
    """Returns the label file of an image: the last folder ``images`` of its path is ``labels``.

    Raises:
        InputError: If no folder of the path is named ``images``.
    """
    parts = list(image.parts)
    at = next((i for i in range(len(parts) - 2, -1, -1) if parts[i] == 'images'), None)
    if at is None:
        raise InputError(
            f'{image} is in no folder named images, so that its label file is not known: move the '
            'images to a folder images, and the labels to a folder labels beside it'
        )
    return Path(*parts[:at], 'labels', *parts[at + 1 :]).with_suffix('.txt')


def default_names(count: int, flips: Sequence[int] | None, notes: list[str]) -> list[str]:
    """Returns names of keypoints whose left/right pairs are those of ``flip_idx``.

    They are COCO's if number and pairs are COCO's, else keypoint_0, or left_1 and right_1 of the
    first pair, and so on.
    """
    coco = read_metainfo(COCO)
    if count == coco['num_keypoints'] and flips == coco['flip_indices']:
        notes.append('keypoints have the number and flip_idx of COCO: they get its names')
        return list(coco['keypoint_id2name'].values())
    names = [f'keypoint_{i}' for i in range(count)]
    pairs = [(i, j) for i, j in enumerate(flips or ()) if i < j]
    for number, (i, j) in enumerate(pairs, 1):
        names[i], names[j] = f'left_{number}', f'right_{number}'
    sides = ', the first of each pair in flip_idx as left' if pairs else ''
    notes.append(f'keypoints have no names: {", ".join(names)}{sides} (--keypoints names them)')
    return names


def _read_yaml(path: Path) -> dict:
    try:
        with path.open(encoding='utf-8-sig') as file:
            content = PlainYamlHandler().load_from_fileobj(file)
    except OSError as error:
        raise InputError(f'{path}: {error.strerror}') from error
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: {error}') from error
    if not isinstance(content, dict):
        raise InputError(f'{path} is not a data.yaml with names, kpt_shape and train')
    return content


def _keypoint_shape(path: Path, shape: Any) -> tuple[int, int]:
    if shape is None:
        raise InputError(f'{path} has no kpt_shape: only labels with keypoints are converted')
    ok = is_list_of(shape, lambda n: type(n) is int) and len(shape) == 2
    if not ok or not 1 <= shape[0] <= MAX_KEYPOINTS or shape[1] not in (2, 3):
        raise InputError(f'{path}: kpt_shape {shape} is not [number of keypoints, 2 or 3]')
    return shape[0], shape[1]


def _flips(path: Path, flips: Any, count: int) -> list[int] | None:
    """Checks that each keypoint becomes one in a mirror image that becomes it in return."""
    if flips is None:
        return None
    ok = is_list_of(flips, lambda n: type(n) is int and 0 <= n < count) and len(flips) == count
    if not ok or any(flips[j] != i for i, j in enumerate(flips)):
        raise InputError(
            f'{path}: flip_idx {flips} does not say of {count} keypoints which two exchange their '
            'places in a mirror image'
        )
    return flips


def _class_names(path: Path, names: Any) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    ok = isinstance(names, dict) and names and all(map(is_name, names.values()))
    if not ok or not all(type(i) is int and i >= 0 for i in names):
        raise InputError(f'{path}: names {names} are not names of classes, or names by their index')
    if len(set(names.values())) < len(names):
        raise InputError(f'{path}: names has a name twice')
    return names


def _keypoint_names(
    path: Path,
    content: dict,
    given: list[str],
    classes: dict[int, str],
    flips: list[int] | None,
    count: int,
    notes: list[str],
) -> dict[int, list[str]]:
    """Returns the names of the keypoints of each class, see :func:`read_data`."""
    found = dict.fromkeys(classes, given) if given else content.get('kpt_names') or {}
    key = '--keypoints' if given else f'{path}: kpt_names'
    if not isinstance(found, dict) or not found.keys() <= classes.keys():
        raise InputError(f'{key} {found} are not lists of names by the index of their class')
    for names in found.values():
        if not is_list_of(names, is_name) or len(set(names)) != len(names) or len(names) != count:
            raise InputError(f'{key} {names} are not {count} different names, as kpt_shape says')
    missing = classes.keys() - found.keys()
    default = default_names(count, flips, notes) if missing else []
    names = {index: found.get(index, default) for index in classes}
    if not flips:
        notes.append('flip_idx is missing: left/right pairs are those of the names')
    for own in {tuple(own): own for own in names.values()}.values() if flips else ():
        pairs = {(i, j) for i, j in enumerate(flips) if i < j}
        if pairs != {tuple(sorted(pair)) for pair in left_right_pairs(own)}:
            notes.append(
                'the left/right pairs of the names are not those of flip_idx: correct swap in the '
                'metainfo that kapao new-dataset writes'
            )
    return names


def _find_root(path: Path, content: dict, notes: list[str]) -> Path:
    """Returns the folder ``path`` of the yaml, or that of the yaml itself."""
    folder, given = Path(os.path.abspath(path)).parent, content.get('path') or '.'
    if not isinstance(given, str):
        raise InputError(f'{path}: path {given} is not a folder')
    root = Path(os.path.normpath(folder / given))
    if not os.path.isdir(root):
        notes.append(f'path {given} does not exist: {folder} is used')
        return folder
    return root


def _find_images(
    path: Path, split: str, value: Any, root: Path, notes: list[str], counts: Counter
) -> list[Path]:
    """Returns the images of a split: of a folder, several folders, or a file that lists images."""
    places = [value] if isinstance(value, str) else value
    if not is_list_of(places, is_name):
        raise InputError(f'{path}: {split} {value} is not a folder, a list of them or a text file')
    images = []
    for place in places:
        source = _find_place(path, split, place.replace('\\', '/'), root, notes)
        images += _listed(source, root) if source.is_file() else _contained(source)
    counts['images listed twice (read once)'] += len(images) - len(set(images))
    if not images:
        raise InputError(f'{path}: {split} {value} has no images')
    return list(dict.fromkeys(images))


def _find_place(path: Path, split: str, place: str, root: Path, notes: list[str]) -> Path:
    """Returns the folder or file of a split; ``../train/images`` may mean ``train/images``."""
    found = Path(os.path.normpath(root / place))
    inside = place
    while inside.startswith('../'):
        inside = inside[3:]
    if not os.path.exists(found) and inside != place and os.path.exists(root / inside):
        notes.append(f'{split}: {place} does not exist: {inside} is used')
        return root / inside
    if not os.path.exists(found):  # Path.exists may raise
        raise InputError(f'{path}: {split} {place} does not exist ({found}): correct it')
    return found


def _contained(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob('*')
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith('.')
    )


def _listed(file: Path, root: Path) -> list[Path]:
    """Returns the images that a text file lists, relative to its folder or to the root."""
    try:
        text = file.read_text(encoding='utf-8-sig').replace('\\', '/')
    except UnicodeDecodeError as error:
        raise InputError(f'{file} is not a text file that lists images') from error
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        beside, below = (Path(os.path.normpath(folder / line)) for folder in (file.parent, root))
        found.append(beside if os.path.exists(beside) else below)
    return found
