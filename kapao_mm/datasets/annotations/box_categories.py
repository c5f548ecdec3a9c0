# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds the categories of an annotation file that have boxes only, such as balls beside people."""

from typing import Any

from .values import has_id, valid_ids


def find_box_categories(content: dict[str, Any]) -> set[int]:
    """Returns the ids of the categories that list no keypoints and whose annotations have none.

    If this holds for all categories, then keypoints are missing, and no ids are returned.

    Args:
        content: COCO-format annotations, not checked yet.
    """
    listed = content.get('categories', [])
    with_keypoints = {
        *(entry['id'] for entry in listed if has_id(entry) and entry.get('keypoints')),
        *(
            annotation['category_id']
            for annotation in content.get('annotations', [])
            if has_id(annotation, 'category_id') and annotation.get('keypoints')
        ),
    }
    return valid_ids(listed) - with_keypoints if with_keypoints else set()


def keep_categories(content: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Returns the content with the categories of the given names and their annotations only."""
    categories = [entry for entry in content['categories'] if entry['name'] in names]
    ids = valid_ids(categories)
    annotations = [a for a in content['annotations'] if a['category_id'] in ids]
    return content | dict(categories=categories, annotations=annotations)
