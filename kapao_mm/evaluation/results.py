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
from kapao_mm.utils.atomic_file import atomic_path

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
    points = np.asarray(poses['keypoints'], float).round(COORDINATE_DECIMALS)
    point_scores = np.asarray(poses['keypoint_scores'], float).clip(UNFUSED_SCORE)
    keypoints = np.dstack((points, point_scores.round(SCORE_DECIMALS)))  # (P, K, 3)
    boxes = bbox_xyxy2xywh(np.asarray(poses['bboxes'], float)).round(COORDINATE_DECIMALS)
    scores = np.asarray(poses['bbox_scores'], float).round(SCORE_DECIMALS)
    order = np.argsort(-scores, kind='stable')  # as COCO's tools sort

    results = []
    in_file = zip(metainfo['categories'], category_ids(metainfo), strict=True)
    for label, (category, ids) in enumerate(in_file):
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
    """Writes records as a compact JSON list, one record per line.

    The file is written completely or not at all. Its folder is made if it is missing.

    Raises:
        InputError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{path.absolute()} cannot be written: {error.strerror}') from error
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
            f'result file {path.absolute()} is no list of results, but a {type(results).__name__}; '
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
    known = categories_by_id(annotations, metainfo)
    keys = ('image_id', 'category_id', 'keypoints', *['bbox'] * boxes, 'score')
    for index, result in enumerate(results):
        where = f'result {index} of {source}'
        if not isinstance(result, dict):
            raise InputError(f'{where} is no object with {", ".join(keys)}')
        for key in keys:
            if key not in result:
                hint = '; evaluate without boxes: test_evaluator.box_ap=False' * (key == 'bbox')
                raise InputError(f'{where} has no {key!r}{hint}')
        image_id, category_id = result['image_id'], result['category_id']
        where += f' (image {image_id!r})'
        if not _is_among(image_id, images):
            raise InputError(f'{where}: the annotation file has no image of that id')
        if not _is_among(category_id, known):
            shown = ', '.join(map(repr, [*known][:10])) + ', ...' * (len(known) > 10)
            raise InputError(
                f'{where} has category_id {category_id!r}, which is none of {shown}, those that '
                'annotation file and metainfo share'
            )
        category = metainfo['categories'][known[category_id]]
        lengths = dict(keypoints=3 * len(category['keypoint_ids']), bbox=4)
        unused_box = ['bbox'] * (not boxes and result.get('bbox') is not None)  # gives the area
        for key in (*keys[2:], *unused_box):
            numbers = [result[key]] if key == 'score' else result[key]
            if not are_numbers(numbers):
                raise InputError(f'{where}: {key} holds something that is no finite number')
            if (count := lengths.get(key, 1)) != len(numbers):
                raise InputError(f'{where}: {key} has {len(numbers)} numbers instead of {count}')
            if key == 'bbox' and min(numbers[2:]) < 0:
                raise InputError(f'{where}: bbox has a negative width or height: {numbers}')


def _is_among(value: Any, ids: Container) -> bool:
    """Returns whether a value is one of the ids; True, False and lists never are."""
    return type(value) in (int, float, str) and value in ids
