# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds faults in labels that would silently change the results of COCO's evaluation."""

from collections.abc import Mapping
from typing import Any

from kapao_mm.datasets.annotations.checks import (
    annotation_faults,
    file_faults,
    id_faults,
    metainfo_faults,
)
from kapao_mm.datasets.annotations.issues import AnnotationIssue, Rule, find_issues
from kapao_mm.datasets.annotations.values import are_numbers, is_list_of
from kapao_mm.datasets.metainfo import keypoint_category_ids

LARGEST_AREA = 1e10  # px^2; COCO's evaluation ignores larger objects
OR_FROM_BOX = 'or have it estimated from the box with test_evaluator.use_area=False'
WRITE_AREA = f'write the area of the object in px, {OR_FROM_BOX}'

UNLABELED_CATEGORIES = Rule(
    "images whose 'not_exhaustive_category_ids' is not a list of ids",
    'list the ids of the categories that were not labeled in the image',
    lambda image: (
        not is_list_of(
            image.get('not_exhaustive_category_ids', []), lambda value: type(value) is int
        )
    ),
)
CROWD_INDEX = Rule(
    "images without a number 'crowdIndex', which iou_type='keypoints_crowd' needs",
    "add it, or evaluate with iou_type='keypoints'",
    lambda image: not are_numbers([image.get('crowdIndex')]),
)
NO_AREA = Rule(
    "annotations without 'area'",
    'OKS uses 0.53 of the area of every box in the file (use_area=False)',
    lambda a: a.get('area') is None,
)
NEGATIVE_BOX = Rule(
    "annotations whose 'bbox' has a negative width or height",
    'write x, y, width and height',
    lambda a, _: min(a['bbox'][2:]) < 0,
)
# Context: area of each image by its id. OKS would accept every pose with an area of NaN, no pose
# with 0, and any distance with an area larger than the image.
AREA_RULES = (
    Rule(
        "annotations without 'area', which OKS needs",
        f'add it, {OR_FROM_BOX}',
        lambda a, _: a.get('area') is None,
    ),
    Rule(
        "annotations whose 'area' is not a number above 0",
        WRITE_AREA,
        lambda a, _: a.get('area') is not None and not _is_area(a['area']),
    ),
    Rule(
        "annotations whose 'area' is larger than their image",
        WRITE_AREA,
        lambda a, image_areas: (
            _is_area(a.get('area'))
            and a['area'] > max(image_areas.get(a['image_id'], LARGEST_AREA), _box_area(a))
        ),
    ),
)
FLAT_BOX = Rule(
    "annotations whose 'bbox' has no area, which OKS needs with use_area=False",
    'correct the boxes, or remove the annotations',
    lambda a, _: any(a['keypoints'][2::3]) and not _is_area(_box_area(a)),
)


def label_faults(
    annotations: dict,
    metainfo: Mapping[str, Any],
    use_area: bool = True,
    iou_type: str = 'keypoints',
) -> list[AnnotationIssue]:
    """Checks all values of an annotation file that COCO's evaluation reads.

    Args:
        annotations: Content of the file, as :func:`read_annotations` returns it.
        metainfo: Metainfo with ``categories``.
        use_area: See :func:`evaluate_results`.
        iou_type: See :func:`evaluate_results`.

    Returns:
        The faults; an empty list if the file can be evaluated.
    """
    if faults := file_faults(annotations, metainfo, test_mode=True):
        return faults
    images = annotations['images']
    crowd_index = [CROWD_INDEX] if iou_type == 'keypoints_crowd' else []
    return [
        *id_faults('images', images),
        *find_issues('images', images, [UNLABELED_CATEGORIES, *crowd_index]),
        *annotation_faults(annotations),
        *metainfo_faults(annotations, metainfo),
    ] or _area_faults(annotations, metainfo, use_area)


def _area_faults(
    annotations: dict, metainfo: Mapping[str, Any], use_area: bool
) -> list[AnnotationIssue]:
    """Checks the areas and boxes that OKS is computed from."""
    sizes = {im['id']: [im.get('width'), im.get('height')] for im in annotations['images']}
    image_areas = {key: w * h for key, (w, h) in sizes.items() if are_numbers([w, h])}
    entries = annotations.get('annotations', [])
    # OKS is computed for these alone.
    ids = keypoint_category_ids({**metainfo, 'CLASSES': annotations['categories']})
    posed = [annotation for annotation in entries if annotation['category_id'] in ids]
    return [
        *find_issues('annotations', entries, [NEGATIVE_BOX], image_areas),
        *find_issues('annotations', posed, AREA_RULES if use_area else [FLAT_BOX], image_areas),
    ]


def _box_area(annotation: dict) -> float:
    return annotation['bbox'][2] * annotation['bbox'][3]


def _is_area(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= LARGEST_AREA  # False for NaN
