# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Turns predictions into COCO result records, and reads, writes and checks files of records."""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmpose.structures.bbox import bbox_xyxy2xywh

from kapao_mm.datasets.annotations.checks import are_numbers, categories_by_id
from kapao_mm.datasets.annotations.reader import read_json
from kapao_mm.datasets.metainfo import category_ids
from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_folder

RESULT_SUFFIX = '.keypoints.json'
MAX_POSES = 100  # per category and image, as many as COCO's box AP uses
KEYPOINT_POSES = 20  # as many as COCO's keypoint AP uses
COORDINATE_DECIMALS = 3
SCORE_DECIMALS = 9  # fewer decimals would make ties, which change the order of poses
# xtcocotools drops a pose whose keypoints all score 0, which means "not fused" here.
UNFUSED_SCORE = 1e-6


def make_results(
    image_id: int | str,
    poses: Mapping[str, np.ndarray],
    metainfo: Mapping[str, Any],
    max_poses: int = MAX_POSES,
) -> list[dict]:
    """Turns the poses of an image into COCO result records.

    Numbers are rounded, and only the best poses of each category are kept. So the metrics are
    exactly the same whether the records are evaluated directly or read back from a file.

    Args:
        image_id: Id of the image in the annotation file.
        poses: Arrays bboxes (P, 4) xyxy and keypoints (P, K, 2), both in px of the original image,
            bbox_scores (P,), keypoint_scores (P, K) and labels (P,), the categories 0..C-1.
        metainfo: Metainfo with ``categories`` and ``CLASSES``, see :func:`category_ids`. Poses of a
            category that is not in the annotation file are left out.
        max_poses: Largest number of poses of each category.

    Returns:
        A record for each pose with image_id, category_id (the first id of the category in the
        file), keypoints [x, y, score] * K_c, bbox xywh, and score. Records are sorted by category,
        then by falling score.
    """
    # Rounded as float64, because a rounded float32 has more digits as a Python float.
    coordinates = np.asarray(poses['keypoints'], float).round(COORDINATE_DECIMALS)
    keypoint_scores = np.asarray(poses['keypoint_scores'], float).clip(UNFUSED_SCORE)
    keypoints = np.dstack((coordinates, keypoint_scores.round(SCORE_DECIMALS)))  # (P, K, 3)
    boxes = bbox_xyxy2xywh(np.asarray(poses['bboxes'], float)).round(COORDINATE_DECIMALS)
    scores = np.asarray(poses['bbox_scores'], float).round(SCORE_DECIMALS)
    order = np.argsort(-scores, kind='stable')  # as COCO's tools sort

    results = []
    categories = zip(metainfo['categories'], category_ids(metainfo), strict=True)
    for label, (category, ids) in enumerate(categories):
        best = order[poses['labels'][order] == label][:max_poses] if ids else ()
        results += [
            dict(
                image_id=image_id,
                category_id=ids[0],
                keypoints=keypoints[i, category['keypoint_ids']].ravel().tolist(),
                bbox=boxes[i].tolist(),
                score=scores[i].item(),
            )
            for i in best
        ]
    return results


def write_results(results: list[dict], path: Path) -> None:
    """Writes records as a compact JSON list with one record per line, and creates the folder.

    The file is written completely or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    check_folder(path.parent)
    with atomic_path(path) as temporary, temporary.open('w') as file:
        file.write('[')
        for i, result in enumerate(results):
            file.write(',\n' * (i > 0) + json.dumps(result, separators=(',', ':')))
        file.write(']\n')


def read_results(path: Path) -> list[dict]:
    """Reads a file of records, without checking each record as :func:`check_results` does.

    Raises:
        InputError: If the file is missing, is not JSON, or does not hold a list.
    """
    results = read_json(path, 'result file')
    if not isinstance(results, list):
        raise InputError(
            f'result file {path.absolute()} has a {type(results).__name__} instead of a list; '
            'kapao test --format-only writes one'
        )
    return results


def check_results(
    results: list[dict],
    source: str,
    annotations: Mapping[str, Any],
    metainfo: Mapping[str, Any],
    boxes: bool,
) -> None:
    """Checks that records fit an annotation file.

    Args:
        results: Records to check.
        source: Where the records are from, for messages.
        annotations: Content of the annotation file.
        metainfo: Metainfo with ``categories``.
        boxes: Whether each record needs a bbox.

    Raises:
        InputError: If a key is missing, the annotation file has no such image or category, the
            number of keypoints is wrong, or a value is not a finite number.
    """
    images = {image['id'] for image in annotations['images']}
    lengths = {
        category_id: 3 * len(metainfo['categories'][label]['keypoint_ids'])
        for category_id, label in categories_by_id(annotations, metainfo).items()
    }
    for index, result in enumerate(results):
        _check_result(f'result {index} of {source}', result, images, lengths, boxes)


def _check_result(
    name: str, result: Any, images: set, lengths: Mapping[Any, int], boxes: bool
) -> None:
    """Checks a record.

    Args:
        name: Name of the record for messages.
        result: Record to check.
        images: Ids of the images.
        lengths: Length of ``keypoints`` by category id. With 0 the record needs a bbox and may lack
            keypoints.
        boxes: Whether the record needs a bbox.
    """
    is_box = isinstance(result, dict) and _length(result, lengths) == 0
    parts = ['bbox'] if is_box else ['keypoints', *['bbox'] * boxes]
    keys = ('image_id', 'category_id', *parts, 'score')
    if not isinstance(result, dict):
        raise InputError(f'{name} is not an object with {", ".join(keys)}')
    for key in keys:
        if key not in result:
            optional = key == 'bbox' and not is_box
            hint = '; evaluate without boxes: test_evaluator.box_ap=False' * optional
            raise InputError(f'{name} has no {key!r}{hint}')
    image_id, category_id = result['image_id'], result['category_id']
    name += f' (image {image_id!r})'
    if not _is_among(image_id, images):
        raise InputError(f'{name}: the annotation file has no image with that id')
    if not _is_among(category_id, lengths):
        known = ', '.join(map(repr, [*lengths][:10])) + ', ...' * (len(lengths) > 10)
        raise InputError(
            f'{name} has category_id {category_id!r}, but annotation file and metainfo share only '
            f'{known}'
        )
    # A box is checked even if it is not needed, because it gives the area of the result.
    expected = dict(keypoints=lengths[category_id], bbox=4, score=1)
    for key, count in expected.items():
        if key in keys or result.get(key) is not None:
            _check_numbers(f'{name}: {key}', result[key], count)


def _length(result: Mapping, lengths: Mapping[Any, int]) -> int | None:
    """Returns the length of ``keypoints`` of a record; None if its category is unknown."""
    category_id = result.get('category_id')
    return lengths[category_id] if _is_among(category_id, lengths) else None


def _check_numbers(name: str, value: Any, count: int) -> None:
    """Checks a value of a record: a number, or a list of ``count`` numbers."""
    numbers = [value] if count == 1 else value
    if not are_numbers(numbers):
        raise InputError(f'{name} holds something that is not a finite number')
    if len(numbers) != count:
        raise InputError(f'{name} has {len(numbers)} numbers instead of {count}')
    if count == 4 and min(numbers[2:]) < 0:  # bbox
        raise InputError(f'{name} has a negative width or height: {numbers}')


def _is_among(value: Any, ids: Container) -> bool:
    """Returns whether a value is one of the ids; True, False and lists never are."""
    return type(value) in (int, float, str) and value in ids
