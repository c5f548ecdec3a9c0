# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads Label Studio's exports "JSON" and "JSON-MIN" of keypoints and rectangles.

Coordinates are percentages of the image's size. In "JSON" a keypoint belongs to a rectangle by its
``parentID``, or by a relation between the two; "JSON-MIN" has neither.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from kapao_mm.errors import InputError
from kapao_mm.utils.image_files import IMAGE_SUFFIXES

from ..annotations.values import is_name, is_number
from .coco import read_image_sizes
from .grouping import Box, Keypoint, LabeledImage

LABELS = ('keypointlabels', 'rectanglelabels', 'labels')
UPLOAD_PREFIX = re.compile(r'^[0-9a-f]{8}[-_]+')  # that Label Studio adds to uploaded files


class Task(NamedTuple):
    """A task: its name in messages, the address of its image, and its regions."""

    where: str
    address: str
    regions: list[dict]


def read_config(path: Path) -> tuple[list[str], list[str]]:
    """Reads the labels of a labeling configuration, an XML file.

    Returns:
        Names of the categories, and names of the keypoints in the order of their ``model_index``
        if all have one.

    Raises:
        InputError: If the file cannot be read, or has no KeyPointLabels.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f'{path} cannot be read as XML: {error}') from error
    found = {
        tag: [label for parent in root.iter(tag) for label in parent.iter('Label')]
        for tag in ('RectangleLabels', 'KeyPointLabels')
    }
    keypoints = found['KeyPointLabels']
    indices = [label.get('model_index', '') for label in keypoints]
    if indices and all(index.isdecimal() for index in indices):
        keypoints = sorted(keypoints, key=lambda label: int(label.get('model_index')))
    names = list(dict.fromkeys(label.get('value') for label in keypoints))
    if not names or None in names:
        raise InputError(f'{path} has no KeyPointLabels with a value for each label')
    rectangles = [label.get('value') for label in found['RectangleLabels']]
    return list(dict.fromkeys(rectangles)), names


def order_labels(
    images: Sequence[LabeledImage], config: Path | None
) -> tuple[list[str], list[str]]:
    """Returns the categories and the names of keypoints of images, in the order of their model.

    Args:
        images: The labeled images.
        config: The labeling configuration; without it the order is that of their first use.

    Raises:
        InputError: If :func:`read_config` fails, or an image has a label that it does not list.
    """
    used = [
        list(dict.fromkeys(box.category for image in images for box in image.boxes)),
        list(dict.fromkeys(keypoint.name for image in images for keypoint in image.keypoints)),
    ]
    listed = read_config(config) if config else used
    for mine, known in zip(used, listed, strict=True):
        for label in mine:
            if known and label not in known:
                raise InputError(f'{config} does not list the label {label!r} of the export')
    return listed[0] or used[0], listed[1]


def read_tasks(path: Path, content: Any, image_key: str | None, counts: Counter) -> list[Task]:
    """Returns the annotated tasks of an export.

    Of several annotations of a task, that marked as ground truth is taken, or else the latest.

    Args:
        path: The file, for messages.
        content: Its content.
        image_key: Key of the image; by default the only key whose value looks like an image.
        counts: Numbers of what was left out or assumed; changed in place.

    Raises:
        InputError: If the content has another form, or the image of a task is not clear.
    """
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise InputError(f'{path} is not an export of Label Studio, which is a list of tasks')
    tasks = {}
    for number, task in enumerate(content):
        where = f'{path}, task {task.get("id", f"number {number + 1}")}'
        is_minimal = 'data' not in task
        data = task if is_minimal else task['data']
        annotations = [task] if is_minimal else task.get('annotations')
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise InputError(f'{where} has no data or annotations: export "JSON" or "JSON-MIN"')
        key = str(task.get('id')), _address(where, data, image_key)
        kept = tasks.setdefault(key, (where, []))[1]
        kept.extend(a for a in annotations if isinstance(a, dict) and not _is_skipped(a))
    found = []
    for (_, address), (where, annotations) in tasks.items():
        counts['tasks without an annotation (left out)'] += not annotations
        counts['tasks with several annotations (the latest is taken)'] += len(annotations) > 1
        if annotations:
            found.append(Task(where, address, _regions(where, max(annotations, key=_rank))))
    return found


def convert_tasks(
    tasks: Sequence[Task], folder: Path | None, counts: Counter
) -> list[LabeledImage]:
    """Converts tasks to labeled images.

    Args:
        tasks: The tasks.
        folder: Folder of the images; without it, their names are taken from the addresses.
        counts: Numbers of what was left out or assumed; changed in place.

    Raises:
        InputError: If an image is missing in ``folder`` or belongs to two tasks, a region is
            invalid, or the size of an image is not known.
    """
    images, first = [], {}
    for task in tasks:
        name = file_name(task.address)
        name = find_file(name, folder, task.where) if folder else name
        if first.setdefault(name, task.where) != task.where:
            raise InputError(f'{task.where} has the same image as {first[name]}: {name}')
        size = _size(task, folder and folder / name)
        images.append(_convert(task, name, size, counts))
    return images


def file_name(address: str) -> str:
    """Returns the name of an image file of an address: a URL, an upload, or a local file.

    Examples:
        >>> file_name('/data/local-files/?d=cats/a%20b.jpg')
        'cats/a b.jpg'
        >>> file_name('https://example.com/images/a.jpg?size=big')
        'a.jpg'
    """
    url = urlsplit(address.replace('\\', '/'))
    local = parse_qs(url.query).get('d')
    path = PurePosixPath(local[0] if local else unquote(url.path))
    is_local = local or not (url.scheme or path.is_absolute())
    return path.as_posix().lstrip('/') if is_local else path.name


def find_file(name: str, folder: Path, where: str) -> str:
    """Returns the path of an image below a folder, with fewer folders or without upload prefix.

    Raises:
        InputError: If there is no such file.
    """
    parts = PurePosixPath(name).parts
    ends = [PurePosixPath(*parts[i:]) for i in range(len(parts))]
    for path in [*ends, PurePosixPath(UPLOAD_PREFIX.sub('', parts[-1]))]:
        if (folder / path).is_file():
            return path.as_posix()
    raise InputError(f'{where}: image {name} is not in {folder.absolute()}')


def _rank(annotation: dict) -> tuple[bool, str]:
    return bool(annotation.get('ground_truth')), str(annotation.get('updated_at', ''))


def _is_skipped(annotation: dict) -> bool:
    return bool(annotation.get('was_cancelled') or annotation.get('skipped'))


def _address(where: str, data: dict, key: str | None) -> str:
    """Returns the address of the image of a task."""
    texts = {k: v for k, v in data.items() if isinstance(v, str) and v}
    found = [k for k, v in texts.items() if file_name(v).lower().endswith(IMAGE_SUFFIXES)]
    keys = [key] if key else found if len(found) == 1 else ['image']
    if keys[0] not in texts:
        raise InputError(f'{where}: its image is not clear (keys: {", ".join(data)}): --image-key')
    return texts[keys[0]]


def _regions(where: str, annotation: dict) -> list[dict]:
    """Returns the regions of an annotation in the form of "JSON"."""
    regions = annotation.get('result')
    if 'result' not in annotation:  # JSON-MIN has lists of values by the name of their tag
        lists = [value for value in annotation.values() if isinstance(value, list)]
        values = [v for value in lists for v in value if isinstance(v, dict)]
        regions = [{**v, 'value': v} for v in values]
    if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
        raise InputError(f'{where}: result is not a list of regions')
    return regions


def _size(task: Task, path: Path | None) -> tuple[int, int]:
    """Returns the size (w, h) px of the image of a task."""
    sizes = [
        [region.get('original_width'), region.get('original_height')]
        for region in task.regions
        if 'original_width' in region
    ]
    for width, height in sizes:
        if not all(is_number(side) and side >= 1 and side == int(side) for side in (width, height)):
            raise InputError(f'{task.where}: its original size is {width} x {height}')
        if [width, height] != sizes[0]:
            raise InputError(f'{task.where}: its regions have different original sizes')
    if sizes:
        return int(sizes[0][0]), int(sizes[0][1])
    if path:
        return read_image_sizes([path])[0]
    raise InputError(f'{task.where} has no regions, so that its size is not known: set --images')


def _convert(task: Task, name: str, size: tuple[int, int], counts: Counter) -> LabeledImage:
    """Converts the regions of a task from percentages to px."""
    boxes, points, related = [], [], _relations(task.regions)
    for region, label, value in _labeled_regions(task, counts):
        x, y = value['x'] * size[0] / 100, value['y'] * size[1] / 100
        own = str(region.get('id'))
        if _is_rectangle(value):
            sides = value['width'] * size[0] / 100, value['height'] * size[1] / 100
            angle = value.get('rotation') or 0
            counts['turned boxes (replaced by upright ones)'] += bool(angle % 360)
            boxes.append(Box(own, label, _upright(x, y, *sides, angle)))
        else:
            points.append((label, x, y, [str(region.get('parentID')), *related.get(own, [])]))
    ids = {box.id for box in boxes} - {str(None)}
    keypoints = [Keypoint(*xy, next(filter(ids.__contains__, to), None)) for *xy, to in points]
    return LabeledImage(task.where, name, size, boxes, keypoints)


def _is_rectangle(value: dict) -> bool:
    return 'rectanglelabels' in value or 'height' in value


def _labeled_regions(task: Task, counts: Counter) -> Iterator[tuple[dict, str, dict]]:
    """Yields the regions that are rectangles or keypoints, with their label and their value."""
    for region in task.regions:
        value, where = region.get('value'), f'{task.where}, region {region.get("id")}'
        key = next((k for k in LABELS if isinstance(value, dict) and k in value), None)
        if key is None or 'x' not in value or 'radiusX' in value:
            counts['regions of other kinds (left out)'] += region.get('type') != 'relation'
            continue
        labels = value[key]
        if not isinstance(labels, list) or len(labels) != 1 or not is_name(labels[0]):
            raise InputError(f'{where} has {labels!r}, not one label: correct it')
        needed = ['x', 'y', *(['width', 'height'] if _is_rectangle(value) else [])]
        numbers = [*(value.get(k) for k in needed), value.get('rotation') or 0]
        if not all(is_number(number) and math.isfinite(number) for number in numbers):
            raise InputError(f'{where}: {", ".join(needed)} are not all numbers')
        if region.get('image_rotation'):
            raise InputError(
                f'{where}: the image was turned in Label Studio, and the coordinates are those of '
                'the turned image: turn it back there'
            )
        yield region, labels[0], value


def _relations(regions: Sequence[dict]) -> dict[str, list[str]]:
    """Returns the ids of the regions that each region has a relation to."""
    related = {}
    for region in regions:
        if region.get('type') == 'relation':
            ends = str(region.get('from_id')), str(region.get('to_id'))
            for one, other in (ends, ends[::-1]):
                related.setdefault(one, []).append(other)
    return related


def _upright(
    x: float, y: float, width: float, height: float, angle: float
) -> tuple[float, float, float, float]:
    """Returns the box around a rectangle that is turned clockwise about its corner x, y."""
    if not angle % 360:
        return x, y, width, height
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = [(a * cos - b * sin, a * sin + b * cos) for a in (0, width) for b in (0, height)]
    left, top = (min(side) for side in zip(*corners, strict=True))
    right, bottom = (max(side) for side in zip(*corners, strict=True))
    return x + left, y + top, right - left, bottom - top
