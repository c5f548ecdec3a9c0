# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads Label Studio's COCO export, whose objects are split into two kinds of annotations.

Rectangles are annotations of their categories. Keypoints are annotations of a category ``default``;
all objects of an image share one of them, which has a keypoint of each name.
"""

from collections import Counter, defaultdict
from pathlib import Path

from kapao_mm.errors import InputError

from ..annotations.issues import Rule, find_issues
from ..annotations.merge import merge_faults
from ..annotations.reader import raise_faults
from ..annotations.values import are_numbers
from .grouping import Box, Keypoint, LabeledImage
from .label_studio import find_file

SHARED = 'images whose boxes share one set of keypoints'
BOX_RULE = Rule(
    "annotations of rectangles whose 'bbox' is not four finite numbers",
    'export them again',
    lambda a: not are_numbers(a.get('bbox')) or len(a['bbox']) != 4,
)
KEYPOINT_RULE = Rule(  # context: number of keypoints of the category
    "annotations whose 'keypoints' are not x, y and visibility of each keypoint of their category",
    'export them again',
    lambda a, count: not are_numbers(a.get('keypoints')) or len(a['keypoints']) != 3 * count,
)


def convert_coco_export(
    path: Path, content: dict, folder: Path | None, counts: Counter
) -> tuple[list[LabeledImage], list[str], list[str]]:
    """Converts the export to labeled images, whose boxes and keypoints are to be joined.

    Args:
        path: The file, for messages.
        content: Its content, with the lists images, annotations and categories.
        folder: Folder of the images; without it, file names are kept.
        counts: Numbers of assumptions; changed in place.

    Returns:
        The labeled images, the categories of boxes, and the names of the keypoints.

    Raises:
        InputError: If the file has errors, or is not split like Label Studio's.
    """
    raise_faults(path, merge_faults(content))
    posed = [category for category in content['categories'] if category.get('keypoints')]
    if len(posed) != 1 or len(content['categories']) == 1:
        raise InputError(
            f'{path} is not a COCO export of Label Studio, which has one category of keypoints and '
            'others of rectangles: use it as it is, or export "JSON"'
        )
    (default,) = posed
    names = default['keypoints']
    points = [a for a in content['annotations'] if a['category_id'] == default['id']]
    boxes = [a for a in content['annotations'] if a['category_id'] != default['id']]
    raise_faults(path, find_issues('annotations', boxes, [BOX_RULE]))
    raise_faults(path, find_issues('annotations', points, [KEYPOINT_RULE], len(names)))
    boxes_of, points_of = _by_image(boxes), _by_image(points)
    labels = {category['id']: category['name'] for category in content['categories']}
    images = []
    for image in content['images']:
        where, name = f'{path}, image {image["id"]}', image['file_name']
        own_boxes, own = boxes_of[image['id']], points_of[image['id']]
        counts[SHARED] += len(own_boxes) > 1 and len(own) == 1
        images.append(
            LabeledImage(
                where,
                find_file(name.replace('\\', '/'), folder, where) if folder else name,
                (image['width'], image['height']),
                [Box(a['id'], labels[a['category_id']], tuple(a['bbox'])) for a in own_boxes],
                [keypoint for a in own for keypoint in _keypoints(a, names)],
            )
        )
    return images, [c['name'] for c in content['categories'] if c is not default], names


def _by_image(annotations: list[dict]) -> dict[int, list[dict]]:
    found = defaultdict(list)
    for annotation in annotations:
        found[annotation['image_id']].append(annotation)
    return found


def _keypoints(annotation: dict, names: list[str]) -> list[Keypoint]:
    values = annotation['keypoints']
    parent = annotation.get('parentID', annotation.get('parent_id'))
    rows = zip(names, values[::3], values[1::3], values[2::3], strict=True)
    return [Keypoint(name, x, y, parent) for name, x, y, v in rows if v > 0]
