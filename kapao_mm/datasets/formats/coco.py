# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Builds COCO-format content, as all converters to this format need it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kapao_mm.errors import InputError

from ..annotations.image_sizes import read_header
from ..annotations.sigmas import BOX_TO_AREA

LABELED = 2  # COCO's visibility of a keypoint that is labeled and visible


def make_annotation(
    category_id: int, bbox: Sequence[float], keypoints: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Returns an annotation without ids of its own and of its image.

    Its area is 0.53 times that of the box, as in the evaluation of objects without a mask.

    Args:
        category_id: Id of its category.
        bbox: x, y, width and height, px.
        keypoints: x and y in px, and COCO's visibility of each keypoint.
    """
    return dict(
        category_id=category_id,
        bbox=list(bbox),
        area=BOX_TO_AREA * bbox[2] * bbox[3],
        iscrowd=0,
        keypoints=[value for keypoint in keypoints for value in keypoint],
        num_keypoints=sum(keypoint[2] > 0 for keypoint in keypoints),
    )


def make_category(category_id: int, name: str, keypoints: Sequence[str]) -> dict[str, Any]:
    """Returns a category without a skeleton."""
    return dict(id=category_id, name=name, keypoints=list(keypoints), skeleton=[])


def make_content(
    images: Iterable[tuple[str, tuple[int, int], list[dict]]], categories: list[dict]
) -> dict[str, list[dict]]:
    """Returns the content of a file, with ids from 1.

    Args:
        images: File name, size (w, h) px and annotations of each image.
        categories: Categories of the file.
    """
    content = dict(images=[], annotations=[], categories=categories)
    for image_id, (name, (width, height), annotations) in enumerate(images, 1):
        image = dict(id=image_id, file_name=name, width=width, height=height)
        content['images'].append(image)
        for annotation in annotations:
            ids = dict(id=len(content['annotations']) + 1, image_id=image_id)
            content['annotations'].append(ids | annotation)
    return content


def box_around(
    keypoints: np.ndarray, size: tuple[int, int], margin: float
) -> tuple[float, float, float, float] | None:
    """Returns a box (x, y, w, h) px around points, clipped to the image; None without an area.

    Args:
        keypoints: Points, (K, 2) px.
        size: Size (w, h) of the image, px.
        margin: Margin on each side, relative to the longer side of the points' extent, because an
            object extends beyond its keypoints.
    """
    top_left, bottom_right = keypoints.min(0), keypoints.max(0)
    margin *= (bottom_right - top_left).max()
    top_left, bottom_right = (
        corner.clip(0, size) for corner in (top_left - margin, bottom_right + margin)
    )
    sides = bottom_right - top_left
    return (*top_left.tolist(), *sides.tolist()) if sides.min() > 0 else None


def read_image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Reads the sizes (w, h) px of images, upright by their EXIF orientation, from the headers.

    Raises:
        InputError: If an image cannot be read.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_read_image_size, paths))


def _read_image_size(path: Path) -> tuple[int, int]:
    try:
        return read_header(path)[0]
    except FileNotFoundError as error:
        raise InputError(f'image {path} does not exist') from error
    except Exception as error:  # PIL raises many kinds of errors for broken files
        raise InputError(f'image {path} cannot be read as an image') from error


def describe(counts: Counter) -> str:
    """Returns a text such as '3 images, 5 people' of the counts above zero."""
    return ', '.join(f'{count} {what}' for what, count in counts.items() if count)
