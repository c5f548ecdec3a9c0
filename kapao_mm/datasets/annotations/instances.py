# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts annotations to arrays, for reviews and statistics."""

from typing import NamedTuple

import numpy as np

from .checks import categories_by_id


class Instances(NamedTuple):
    """The N annotations of a file as arrays, in px of the original images.

    Attributes:
        ids: Annotation ids, (N,) int.
        images: Index of the image of each annotation in the file's list of images, (N,) int.
        image_sizes: Size (w, h) of the image of each annotation, (N, 2) int.
        categories: Category indices of the model, (N,) int.
        boxes: Boxes xyxy, not clipped, (N, 4) float64.
        keypoints: Keypoints, (N, K, 2) float64; 0 for types that the category does not have.
        visible: Visibilities as in the file, (N, K) float64; 0 for types that the category does
            not have.
        crowd: Whether the annotation is a crowd region, (N,) bool.
        only_box: Whether the category of the annotation has no keypoint types, (N,) bool.
    """

    ids: np.ndarray
    images: np.ndarray
    image_sizes: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    crowd: np.ndarray
    only_box: np.ndarray


def gather_instances(content: dict, metainfo: dict) -> Instances:
    """Converts annotations to arrays.

    Args:
        content: Content of a COCO-format file without errors.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
    """
    annotations, known = content['annotations'], categories_by_id(content, metainfo)
    index = {image['id']: i for i, image in enumerate(content['images'])}
    images = np.array([index[a['image_id']] for a in annotations], int)
    categories = np.array([known[a['category_id']] for a in annotations], int)
    boxes = np.array([a['bbox'] for a in annotations], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    keypoints = np.zeros((len(annotations), metainfo['num_keypoints'], 3))
    for label, category in enumerate(metainfo['categories']):
        rows, types = np.flatnonzero(categories == label), category['keypoint_ids']
        found = np.array([annotations[row]['keypoints'] for row in rows], float)
        keypoints[rows[:, None], types] = found.reshape(len(rows), len(types), 3)
    return Instances(
        ids=np.array([a['id'] for a in annotations], int),
        images=images,
        image_sizes=image_sizes(content['images'])[images],
        categories=categories,
        boxes=boxes,
        keypoints=keypoints[..., :2],
        visible=keypoints[..., 2],
        crowd=np.array([bool(a.get('iscrowd')) for a in annotations], bool),
        only_box=np.array([not c['keypoint_ids'] for c in metainfo['categories']])[categories],
    )


def image_sizes(images: list[dict]) -> np.ndarray:
    """Returns the sizes (w, h) of n images as given in the file, (n, 2) int px."""
    return np.array([(image['width'], image['height']) for image in images], int).reshape(-1, 2)


def inner_sides(instances: Instances, input_size: int | None = None) -> np.ndarray:
    """Returns the sides (w, h) of all boxes clipped to their images, (N, 2).

    They are px of a network input with the longer side ``input_size``, or px of the original image
    without it. Boxes outside their image have a side of 0.
    """
    sizes = instances.image_sizes
    boxes = instances.boxes.clip(0, np.tile(sizes, 2))
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    return sides if input_size is None else sides * (input_size / sizes.max(1, keepdims=True))


def box_sides(instances: Instances, input_size: int) -> np.ndarray:
    """Returns the sides (w, h) of boxes clipped to their images, (n, 2) px of the network input.

    Crowd regions and boxes without area inside the image are left out.
    """
    sides = inner_sides(instances, input_size)
    return sides[(sides > 0).all(1) & ~instances.crowd]
