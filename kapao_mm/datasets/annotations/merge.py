# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Merges COCO-format annotation files, with the same or different categories, into one."""

from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kapao_mm.errors import InputError

from .checks import UNLISTED_CATEGORY, UNLISTED_IMAGE, category_faults, id_faults, image_faults
from .issues import AnnotationIssue, Rule, find_issues
from .values import is_list_of, valid_ids

UNANNOTATED = 'not_exhaustive_category_ids'  # LVIS's key of categories not annotated in an image
UNKNOWN_CATEGORIES = Rule(  # context: ids of the file's categories
    f"images whose '{UNANNOTATED}' are not ids of the file's categories",
    'correct them',
    lambda image, ids: not is_list_of(image.get(UNANNOTATED, []), partial(_is_among, ids)),
)


class Source(NamedTuple):
    """A file to merge: its path for messages, its image folder, and its content."""

    path: Path
    folder: str
    content: dict


def merge_faults(content: dict) -> list[AnnotationIssue]:
    """Finds wrong ids, names and references, which would mix up a merged file."""
    images, annotations = content['images'], content['annotations']
    category_ids = valid_ids(content['categories'])
    return [
        *category_faults(content['categories']),
        *image_faults(images),
        *id_faults('annotations', annotations),
        *find_issues('annotations', annotations, [UNLISTED_IMAGE], valid_ids(images)),
        *find_issues('annotations', annotations, [UNLISTED_CATEGORY], category_ids),
        *find_issues('images', images, [UNKNOWN_CATEGORIES], category_ids),
    ]


def merge(sources: Sequence[Source]) -> dict:
    """Merges files without :func:`merge_faults`, with new ids.

    Categories with the same name are merged. In each image, ``not_exhaustive_category_ids`` lists
    the categories that were not annotated in it; evaluation ignores them in this image.

    Raises:
        InputError: If a category has different keypoints in two files.
    """
    categories = merge_categories(sources)
    images, annotations = [], []
    for source in sources:
        new = renumber(source, categories, len(images) + 1, len(annotations) + 1)
        images += new['images']
        annotations += new['annotations']
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
            if (first.get('keypoints') or []) != (category.get('keypoints') or []):
                raise InputError(
                    f'{source.path}: category {category["name"]!r} has other keypoints than in a '
                    'file before it; rename one of them'
                )
    return categories


def renumber(
    source: Source, categories: dict[str, dict], first_image: int, first_annotation: int
) -> dict[str, list[dict]]:
    """Returns the images and annotations of a file with new ids, which start at given ones."""
    content = source.content
    image_ids = {image['id']: i for i, image in enumerate(content['images'], first_image)}
    category_ids = {c['id']: categories[c['name']]['id'] for c in content['categories']}
    absent = {c['id'] for c in categories.values()} - set(category_ids.values())

    def new_image(image: dict) -> dict:
        unannotated = absent | {category_ids[i] for i in image.get(UNANNOTATED, [])}
        path = str(Path(source.folder) / image['file_name'])
        ids = {'id': image_ids[image['id']], UNANNOTATED: sorted(unannotated)}
        return {**image, 'file_name': path, **ids}

    def new_annotation(number: int, a: dict) -> dict:
        ids = dict(image_id=image_ids[a['image_id']], category_id=category_ids[a['category_id']])
        return {**a, 'id': number, **ids}

    annotations = enumerate(content['annotations'], first_annotation)
    return dict(
        images=list(map(new_image, content['images'])),
        annotations=[new_annotation(number, a) for number, a in annotations],
    )


def _is_among(ids: Container[int], value: Any) -> bool:
    return type(value) is int and value in ids
