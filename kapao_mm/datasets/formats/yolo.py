# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts YOLO pose labels to COCO format.

A label file has a row for each object of its image: class, center x, center y, width and height of
the box, then each keypoint as x, y and, if ``kpt_shape`` says so, visibility. Coordinates are
divided by the width and height of the image. A row of five numbers is a box without keypoints.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kapao_mm.errors import InputError

from .coco import LABELED, make_annotation, make_category, make_content, read_image_sizes
from .yolo_data import YoloData, label_path

# Relative coordinates below or above are in another unit. Smaller ones are outside the image.
LIMITS = (-1, 2)


def convert_split(data: YoloData, split: str, counts: Counter) -> dict:
    """Converts the images and labels of a split.

    Args:
        data: The dataset.
        split: Name of the split.
        counts: Numbers of what was read, assumed and left out; changed in place.

    Returns:
        The content of the COCO file. Names of images are relative to ``data.root``.

    Raises:
        InputError: If an image cannot be read, no image has a label file, or a row is wrong.
    """
    images = data.splits[split]
    labels = [label_path(image) for image in images]
    if not any(label.is_file() for label in labels):
        raise InputError(f'{data.path}: no image of {split} has a label file, such as {labels[0]}')
    sizes, rows = read_image_sizes(images), []
    for image, label, size in zip(images, labels, sizes, strict=True):
        own = list(_read_objects(label, size, data, counts)) if label.is_file() else []
        counts['images without a label file (no objects)'] += not label.is_file()
        rows.append((image.relative_to(data.root).as_posix(), size, own))
    counts['images'] += len(images)
    counts['objects'] += sum(len(own) for *_, own in rows)
    categories = [make_category(index + 1, *names) for index, names in data.classes.items()]
    return make_content(rows, categories)


def count_unused(data: YoloData) -> int:
    """Returns the number of label files in the folders of labels that belong to no image."""
    used = {label_path(image) for images in data.splits.values() for image in images}
    found = {file for folder in {file.parent for file in used} for file in folder.glob('*.txt')}
    return sum(file.name != 'classes.txt' for file in found - used)


def _read_objects(
    label: Path, size: tuple[int, int], data: YoloData, counts: Counter
) -> Iterator[dict]:
    """Yields the annotations of a label file, without ids."""
    try:
        lines = label.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{label} cannot be read as text: {error}') from error
    for number, line in enumerate(lines, 1):
        if line.split():
            annotation = _convert_row(f'{label}, row {number}', line.split(), size, data, counts)
            if annotation:
                yield annotation


def _convert_row(
    where: str, words: list[str], size: tuple[int, int], data: YoloData, counts: Counter
) -> dict | None:
    """Converts a row to an annotation without ids; None if its box has no area."""
    index, box, keypoints = _parse_row(where, words, data)
    counts['boxes without keypoints'] += len(words) == 5
    if data.dims == 2 and len(words) > 5:
        labeled = keypoints[:, :2].any(1)
        keypoints[:, 2] = LABELED * labeled
        counts['keypoints without visibility (read as visible)'] += int(labeled.sum())
        counts['keypoints at (0, 0) (read as not labeled)'] += int((~labeled).sum())
    outside = ((keypoints[:, :2] < 0) | (keypoints[:, :2] > 1)).any(1) & (keypoints[:, 2] > 0)
    counts['keypoints outside their image'] += int(outside.sum())
    center, sides = box.reshape(2, 2) * size
    if not sides.all():
        counts['boxes without an area (left out)'] += 1
        return None
    keypoints[:, :2] *= size
    rows = [(x, y, int(v)) for x, y, v in keypoints.tolist()]
    return make_annotation(index + 1, [*(center - sides / 2).tolist(), *sides.tolist()], rows)


def _parse_row(where: str, words: list[str], data: YoloData) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns the class, the box (4,) and the keypoints (K, 3) of a row, relative to the image."""
    count = len(next(iter(data.classes.values()))[1])
    expected = 5 + count * data.dims
    if len(words) not in (5, expected):
        raise InputError(
            f'{where} has {len(words)} numbers, not 5 or {expected} (5 + {count} keypoints of '
            f'{data.dims}, as kpt_shape says)'
        )
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise InputError(f'{where}: {error}') from error
    if numbers[0] not in data.classes:
        raise InputError(f'{where}: class {words[0]} is not in names of {data.path}')
    keypoints = np.zeros((count, 3))
    if len(words) > 5:
        keypoints[:, : data.dims] = numbers[5:].reshape(count, data.dims)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise InputError(f'{where}: a visibility is not 0, 1 or 2')
    coordinates = np.concatenate([numbers[1:5], keypoints[:, :2].ravel()])
    wrong = [x for x in coordinates if not (math.isfinite(x) and LIMITS[0] <= x <= LIMITS[1])]
    if wrong:
        raise InputError(f'{where}: {wrong[0]:g} is not a coordinate divided by the image size')
    if numbers[3:5].min() < 0:
        raise InputError(f'{where}: the box has a negative width or height')
    return int(numbers[0]), numbers[1:5], keypoints
