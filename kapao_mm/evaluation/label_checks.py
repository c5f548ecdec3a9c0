# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds faults in labels that would silently change the results of COCO's evaluation."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from kapao_mm.datasets.annotations.checks import (
    Finding,
    annotation_faults,
    are_numbers,
    file_faults,
    find_entries,
    found_only,
    id_faults,
    metainfo_faults,
)

LARGEST_AREA = 1e10  # px^2; COCO's evaluation ignores larger objects
OR_FROM_BOX = 'or have it estimated from the box with test_evaluator.use_area=False'


def label_faults(
    annotations: dict,
    metainfo: Mapping[str, Any],
    use_area: bool = True,
    iou_type: str = 'keypoints',
) -> list[Finding]:
    """Checks all values of an annotation file that COCO's evaluation reads.

    Args:
        annotations: Content of the file, as :func:`read_annotations` returns it.
        metainfo: Metainfo with ``categories``.
        use_area: See :func:`evaluate_results`.
        iou_type: See :func:`evaluate_results`.

    Returns:
        The faults; an empty list if the file can be evaluated.
    """
    return (
        file_faults(annotations, metainfo, test_mode=True)
        or found_only(
            [
                *_image_faults(annotations['images'], iou_type),
                *annotation_faults(annotations),
                *metainfo_faults(annotations, metainfo),
            ]
        )
        or found_only(_area_faults(annotations, use_area))
    )


def _image_faults(images: list[dict], iou_type: str) -> list[Finding]:
    """Checks the images; findings have no ids if there is no fault."""
    find = partial(find_entries, 'images', images)
    needs_crowd_index = iou_type == 'keypoints_crowd'
    return [
        *id_faults('images', images),
        find(
            "images whose 'not_exhaustive_category_ids' is not a list of ids",
            'list the ids of the categories that were not labeled in the image',
            lambda image: not _are_ids(image.get('not_exhaustive_category_ids', [])),
        ),
        find(
            "images without a number 'crowdIndex', which iou_type='keypoints_crowd' needs",
            "add it, or evaluate with iou_type='keypoints'",
            lambda image: needs_crowd_index and not are_numbers([image.get('crowdIndex')]),
        ),
    ]


def _area_faults(annotations: dict, use_area: bool) -> list[Finding]:
    """Checks areas and boxes that OKS is computed from; findings have no ids if there is no fault.

    With an area of NaN every pose would be correct, with 0 none would be, and with an area larger
    than the image OKS would accept any distance.
    """
    find = partial(find_entries, 'annotations', annotations['annotations'])
    negative = find(
        "annotations whose 'bbox' has a negative width or height",
        'write x, y, width and height',
        lambda entry: min(entry['bbox'][2:]) < 0,
    )
    if not use_area:
        empty_box = find(
            "annotations whose 'bbox' has no area, which OKS needs with use_area=False",
            'correct the boxes, or remove the annotations',
            lambda entry: any(entry['keypoints'][2::3]) and not _is_area(_box_area(entry)),
        )
        return [negative, empty_box]
    sizes = {im['id']: [im.get('width'), im.get('height')] for im in annotations['images']}
    image_areas = {key: w * h for key, (w, h) in sizes.items() if are_numbers([w, h])}

    def is_too_large(entry: dict) -> bool:
        limit = max(image_areas.get(entry['image_id'], LARGEST_AREA), _box_area(entry))
        return _is_area(entry.get('area')) and entry['area'] > limit

    return [
        negative,
        find(
            "annotations without 'area', which OKS needs",
            f'add it, {OR_FROM_BOX}',
            lambda entry: entry.get('area') is None,
        ),
        find(
            "annotations whose 'area' is not a number above 0",
            f'write the area of the object in px, {OR_FROM_BOX}',
            lambda entry: entry.get('area') is not None and not _is_area(entry['area']),
        ),
        find(
            "annotations whose 'area' is larger than their image",
            f'write the area of the object in px, {OR_FROM_BOX}',
            is_too_large,
        ),
    ]


def _box_area(entry: dict) -> float:
    return entry['bbox'][2] * entry['bbox'][3]


def _is_area(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= LARGEST_AREA  # False for NaN


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)
