# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes COCO-format annotations as YOLO pose labels, with links to the images."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from kapao_mm.errors import InputError

from ..annotations.left_right import left_right_pairs
from .yolo_data import label_path

DECIMALS = 9  # finer than 0.001 px in images of up to 1,000,000 px


def find_classes(contents: Sequence[dict], paths: Sequence[Path]) -> dict[str, list[str]]:
    """Returns the names of the keypoints of each category, in the order of the files.

    Raises:
        InputError: If files differ, categories have different numbers of keypoints or left/right
            pairs, or names are missing.
    """
    found = [
        {category['name']: category.get('keypoints') or [] for category in content['categories']}
        for content in contents
    ]
    for path, classes, content in zip(paths, found, contents, strict=True):
        if list(classes.items()) != list(found[0].items()):
            raise InputError(f'{path}: categories or keypoints are not those of {paths[0]}')
        if len(classes) < len(content['categories']):
            raise InputError(f'{path}: several categories have the same name')
    kinds = {(len(names), tuple(flip_indices(names))) for names in found[0].values()}
    if len(kinds) > 1 or not next(iter(kinds))[0]:
        raise InputError(
            f'{paths[0]}: categories need keypoints, all the same number with the same left/right '
            'pairs, because data.yaml has one kpt_shape and one flip_idx'
        )
    return found[0]


def flip_indices(names: Sequence[str]) -> list[int]:
    """Returns the index of the keypoint that each one becomes in a mirror image."""
    flips = list(range(len(names)))
    for left, right in left_right_pairs(names):
        flips[left], flips[right] = right, left
    return flips


def write_split(
    folder: Path, split: str, path: Path, content: dict, images: Path, counts: Counter
) -> None:
    """Writes the label files of a split, and links its images.

    Args:
        folder: Folder of the dataset.
        split: Name of the split.
        path: The annotation file, for messages.
        content: Its content, without errors.
        images: Folder that file names are relative to.
        counts: Numbers of what was written and left out; changed in place.

    Raises:
        InputError: If an image is missing, or two images would share a label file.
    """
    numbers = {category['id']: i for i, category in enumerate(content['categories'])}
    members = defaultdict(list)
    for annotation in content['annotations']:
        members[annotation['image_id']].append(annotation)
    _check_keypoints(path, content)
    count = len(content['categories'][0]['keypoints'])
    for image in content['images']:
        name = Path(image['file_name'])
        source = Path(os.path.abspath(images / name))
        if not os.path.isfile(source):  # Path.is_file may raise
            raise InputError(f'{path}: image {name} is not in {images.absolute()}: set --images')
        link = folder / 'images' / split / _name_inside(name)
        label = folder / label_path(link.relative_to(folder))
        if label.exists() or link.exists():
            raise InputError(f'{path}: two images would have the label file of {name}: rename one')
        link.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
        size = np.array([image['width'], image['height']])
        rows = (
            _row(a, numbers[a['category_id']], count, size, counts) for a in members[image['id']]
        )
        lines = (' '.join(map(_text, row)) for row in rows if row is not None)
        label.write_text(''.join(f'{line}\n' for line in lines))
    counts['images'] += len(content['images'])


def write_data_yaml(folder: Path, splits: Sequence[str], classes: dict[str, list[str]]) -> None:
    """Writes the ``data.yaml`` of a dataset."""
    keypoints = list(classes.values())
    content = dict(
        **{split: f'images/{split}' for split in splits},
        names=dict(enumerate(classes)),
        kpt_shape=[len(keypoints[0]), 3],
        flip_idx=flip_indices(keypoints[0]),
        kpt_names=dict(enumerate(map(list, keypoints))),
    )
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True)
    (folder / 'data.yaml').write_text(text, encoding='utf-8')


def _name_inside(name: Path) -> Path:
    """Returns the name of an image in the folder of a split, without folders named images."""
    if name.is_absolute() or '..' in name.parts:
        return Path(name.name)
    return Path(*(part for part in name.parts if part != 'images'))


def _check_keypoints(path: Path, content: dict) -> None:
    """Raises an InputError for a wrong number of keypoints, or a wrong visibility."""
    counts = {category['id']: len(category['keypoints']) for category in content['categories']}
    for annotation in content['annotations']:
        found = annotation.get('keypoints') or []
        if found and len(found) != 3 * counts[annotation['category_id']]:
            raise InputError(
                f'{path}: annotation {annotation["id"]} has {len(found) / 3:g} keypoints, not '
                f'{counts[annotation["category_id"]]}: correct it'
            )
        if not {0, 1, 2}.issuperset(found[2::3]):
            raise InputError(
                f'{path}: annotation {annotation["id"]} has a visibility other than 0, 1 and 2: '
                'correct it'
            )


def _row(
    annotation: dict, index: int, count: int, size: np.ndarray, counts: Counter
) -> np.ndarray | None:
    """Returns the numbers of a row; None if the format cannot hold the annotation.

    Args:
        annotation: The annotation.
        index: Index of its class.
        count: Number of keypoints.
        size: Size (w, h) of the image, px.
        counts: Numbers of what was written and left out; changed in place.
    """
    if annotation.get('iscrowd'):
        counts['crowds (left out: the format has none)'] += 1
        return None
    corners = np.array(annotation['bbox'], float).reshape(2, 2).cumsum(0) / size
    inside = corners.clip(0, 1)
    if (inside[1] <= inside[0]).any():
        counts['boxes without an area in their image (left out)'] += 1
        return None
    box = _center_and_sides(corners)
    if not _is_relative(box).all():
        box = _center_and_sides(inside)
        counts['boxes clipped to their image'] += 1
    keypoints = np.array(annotation.get('keypoints') or [0] * 3 * count, float).reshape(-1, 3)
    keypoints[:, :2] /= size
    outside = ~_is_relative(keypoints[:, :2]).all(1)
    lost = int((outside & (keypoints[:, 2] > 0)).sum())
    counts['keypoints outside their image (written as not labeled)'] += lost
    keypoints[outside] = 0
    counts['objects'] += 1
    return np.concatenate([[index], box, keypoints.ravel()])


def _center_and_sides(corners: np.ndarray) -> np.ndarray:
    """Converts the corners (2, 2) of a box to center x, center y, width and height."""
    return np.concatenate([corners.mean(0), corners[1] - corners[0]])


def _is_relative(values: np.ndarray) -> np.ndarray:
    """Returns whether each number is between 0 and 1, as the format needs it."""
    rounded = values.round(DECIMALS)
    return (rounded >= 0) & (rounded <= 1)


def _text(value: float) -> str:
    """Returns a number with up to :data:`DECIMALS` decimals, without zeros at the end."""
    text = f'{value:.{DECIMALS}f}'.rstrip('0').rstrip('.')
    return '0' if text == '-0' else text
