# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Merges COCO-format annotation files, with the same or different categories, into one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kapao_mm.errors import InputError

from .checks import (
    category_faults,
    category_id_faults,
    id_faults,
    image_faults,
    image_id_faults,
)
from .issues import AnnotationIssue, Rule, find_issues

UNKNOWN_CATEGORIES = Rule(  # context: ids of the file's categories
    "images whose 'not_exhaustive_category_ids' are not ids of the file's categories",
    'correct them',
    lambda image, known: not _are_among(image.get('not_exhaustive_category_ids', []), known),
)


class Source(NamedTuple):
    """A file to merge.

    Attributes:
        name: Name for messages.
        folder: Image folder, which is put in front of the file names.
        content: Content of the file without the errors that :func:`merge_faults` finds.
    """

    name: str
    folder: str
    content: dict[str, Any]


def merge_faults(content: dict[str, Any]) -> list[AnnotationIssue]:
    """Finds wrong ids, names and references, which would mix up a merged file."""
    faults = [
        *category_faults(content['categories']),
        *image_faults(content['images']),
        *id_faults('annotations', content['annotations']),
        *image_id_faults(content),
        *category_id_faults(content, content['categories']),
    ]
    if faults:
        return faults
    known = {category['id'] for category in content['categories']}
    return find_issues('images', content['images'], [UNKNOWN_CATEGORIES], known)


def merge(sources: Sequence[Source]) -> dict[str, Any]:
    """Merges the content of annotation files, with new ids.

    Categories with the same name are merged. In each image, LVIS's field
    ``not_exhaustive_category_ids`` lists the categories that were not annotated in it; evaluation
    ignores these categories in this image.

    Raises:
        InputError: If a category has different keypoints in two files.
    """
    categories = merge_categories(sources)
    images, annotations = [], []
    for source in sources:
        more_images, more_annotations = renumber(source, categories, len(images), len(annotations))
        images += more_images
        annotations += more_annotations
    return dict(images=images, annotations=annotations, categories=list(categories.values()))


def merge_categories(sources: Sequence[Source]) -> dict[str, dict]:
    """Returns the categories of all files by name, with ids from 1.

    Raises:
        InputError: If a category has different keypoints in two files.
    """
    categories = {}
    for source in sources:
        for category in source.content['categories']:
            new = {**category, 'id': len(categories) + 1}
            first = categories.setdefault(category['name'], new)
            if first.get('keypoints') != category.get('keypoints'):
                raise InputError(
                    f'{source.name}: category {category["name"]!r} has other keypoints than in a '
                    'file before it; rename one of them'
                )
    return categories


def renumber(
    source: Source, categories: dict[str, dict], num_images: int, num_annotations: int
) -> tuple[list[dict], list[dict]]:
    """Returns the images and annotations of a file with their new ids.

    Args:
        source: The file.
        categories: Merged categories by name.
        num_images: Number of images before this file.
        num_annotations: Number of annotations before this file.
    """
    images, annotations = source.content['images'], source.content['annotations']
    new_ids = {image['id']: i for i, image in enumerate(images, num_images + 1)}
    category_ids = {c['id']: categories[c['name']]['id'] for c in source.content['categories']}
    absent = {c['id'] for c in categories.values()} - set(category_ids.values())
    new_images = [
        {
            **image,
            'id': new_ids[image['id']],
            'file_name': str(Path(source.folder) / image['file_name']),
            'not_exhaustive_category_ids': sorted(
                absent | {category_ids[i] for i in image.get('not_exhaustive_category_ids', [])}
            ),
        }
        for image in images
    ]
    new_annotations = [
        {
            **a,
            'id': number,
            'image_id': new_ids[a['image_id']],
            'category_id': category_ids[a['category_id']],
        }
        for number, a in enumerate(annotations, num_annotations + 1)
    ]
    return new_images, new_annotations


def _are_among(values: Any, ids: set[int]) -> bool:
    return isinstance(values, list) and all(type(value) is int and value in ids for value in values)
