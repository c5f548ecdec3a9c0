# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds valid but suspicious entries in a COCO-format annotation file."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from .instances import Instances, image_sizes
from .issues import AnnotationIssue, Rule, find_issues
from .left_right import left_right_pairs
from .values import are_numbers

TOLERANCE = 1  # px that a label may lie outside its box or image because of rounding
SMALL = 8  # px, the stride of the finest grid
# A left/right pair is suspicious if it agrees with the others in a smaller share of instances.
MIN_AGREEMENT = 0.25
MIN_INSTANCES = 20  # minimum number of instances to judge a pair
OUTWARD = np.array([-1, -1, 1, 1])  # direction in which a box xyxy grows


def _share_file(images: list[dict]) -> np.ndarray:
    count = Counter(image['file_name'] for image in images)
    return np.array([count[image['file_name']] > 1 for image in images], bool)


def _clipped_boxes(instances: Instances) -> np.ndarray:
    return instances.boxes.clip(0, np.tile(instances.image_sizes, 2))


def _is_flat(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] <= boxes[:, :2]).any(1)


def _exceeds_image(instances: Instances) -> np.ndarray:
    clipped = _clipped_boxes(instances)
    return (np.abs(instances.boxes - clipped) > TOLERANCE).any(1) & ~_is_flat(clipped)


def _has_keypoint_outside(instances: Instances, limits: np.ndarray) -> np.ndarray:
    """Returns whether a labeled keypoint lies outside limits xyxy, (N, 4) px."""
    x1y1, x2y2 = limits[:, None, :2], limits[:, None, 2:]
    outside = ((instances.keypoints < x1y1) | (instances.keypoints > x2y2)).any(-1)  # (N, K)
    return (outside & (instances.visible > 0)).any(1)


def _has_other_count(annotation: dict) -> bool:
    visible = annotation['keypoints'][2::3]
    counts = [sum(v > 0 for v in visible), sum(v == 2 for v in visible)]
    return annotation.get('num_keypoints', counts[0]) not in counts


IMAGE_RULES = (  # arguments: images of the file, instances; result: mask of the images
    Rule(
        'images without annotations',
        'training uses them as background',
        lambda images, instances: np.bincount(instances.images, minlength=len(images)) == 0,
    ),
    Rule(
        f'images less than {SMALL} px wide or high',
        'are they intended?',
        lambda images, _: image_sizes(images).min(1) < SMALL,
    ),
    Rule(
        'images that share their file with others',
        'join their annotations',
        lambda images, _: _share_file(images),
    ),
)
INSTANCE_RULES = (  # result: mask of the instances
    Rule('crowd regions', 'training leaves them out', lambda found: found.crowd),
    Rule(
        'boxes without area',
        'training leaves them out; box AP counts them as missed',
        lambda found: _is_flat(found.boxes),
    ),
    Rule(
        'boxes outside their image',
        'training leaves them out',
        lambda found: _is_flat(_clipped_boxes(found)) & ~_is_flat(found.boxes),
    ),
    Rule(
        f'boxes more than {TOLERANCE} px beyond their image', 'training clips them', _exceeds_image
    ),
    Rule(
        'annotations without labeled keypoints',
        'training learns only their boxes',
        lambda found: ~(found.visible > 0).any(1) & ~found.crowd & ~found.only_box,
    ),
    Rule(
        'annotations with keypoints outside their image',
        "they give no keypoint objects, unless keypoints_outside='clip' (CrowdPose)",
        lambda found: _has_keypoint_outside(found, np.pad(found.image_sizes, ((0, 0), (2, 0)))),
    ),
    Rule(
        f'annotations with keypoints more than {TOLERANCE} px outside their box',
        'does the box contain the whole object?',
        lambda found: _has_keypoint_outside(found, found.boxes + TOLERANCE * OUTWARD),
    ),
    Rule(
        'annotations with visibilities other than 0, 1 and 2',
        'those above 0 count as labeled',
        lambda found: ~np.isin(found.visible, (0, 1, 2)).all(1),
    ),
)
ANNOTATION_RULES = (
    Rule(
        "annotations whose 'num_keypoints' is neither that of visibility 1 and 2 nor of 2",
        'evaluation of CrowdPose uses it, everything else uses the visibilities',
        _has_other_count,
    ),
    Rule(
        "annotations without an 'area' above 0",
        'without area, OKS uses 0.53 of all boxes (use_area=False); 0 and less stop evaluation',
        lambda a: not (are_numbers([a.get('area')]) and a['area'] > 0),
    ),
)


def review(content: dict, metainfo: dict, instances: Instances) -> list[AnnotationIssue]:
    """Finds valid but suspicious entries, and says how training or evaluation treats them.

    Args:
        content: Content of a COCO-format file without errors.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
        instances: The same annotations as arrays, see :func:`gather_instances`.
    """
    images = content['images']
    image_ids = np.array([image['id'] for image in images], int)
    return [
        *_unswapped_names(metainfo),
        *_crossed_pairs(metainfo, instances),
        *_masked_issues('images', image_ids, IMAGE_RULES, images, instances),
        *_masked_issues('annotations', instances.ids, INSTANCE_RULES, instances),
        *find_issues('annotations', content['annotations'], ANNOTATION_RULES),
    ]


def _masked_issues(
    kind: str, ids: np.ndarray, rules: Iterable[Rule], *context: Any
) -> list[AnnotationIssue]:
    """Applies rules that return a mask of all entries, see :func:`find_issues`."""
    found = ((what, remedy, ids[applies(*context)].tolist()) for what, remedy, applies in rules)
    return [AnnotationIssue(kind, what, remedy, some) for what, remedy, some in found if some]


def _named_pairs(metainfo: dict) -> list[tuple[int, int]]:
    """Returns the indices (left, right) of keypoint types whose names form a left/right pair."""
    names = metainfo['keypoint_id2name']
    return [
        (category['keypoint_ids'][left], category['keypoint_ids'][right])
        for category in metainfo['categories']
        for left, right in left_right_pairs([names[i] for i in category['keypoint_ids']])
    ]


def _unswapped_names(metainfo: dict) -> list[AnnotationIssue]:
    """Finds keypoint types that are a left/right pair by their names only."""
    flip, names = metainfo['flip_indices'], metainfo['keypoint_id2name']
    pairs = [f'{names[i]}/{names[j]}' for i, j in _named_pairs(metainfo) if flip[i] != j]
    what = 'keypoint types that are left and right by their names, but do not swap'
    remedy = 'if they are a pair, write their swap in the metainfo: a flip mixes them up'
    return [AnnotationIssue('metainfo', what, remedy, pairs)] if pairs else []


def _crossed_pairs(metainfo: dict, instances: Instances) -> list[AnnotationIssue]:
    """Finds left/right pairs that are mostly oriented opposite to the other pairs of an instance.

    The side of the image on which left lies depends on the viewing direction of an instance, but
    all pairs of an instance mostly agree on it.
    """
    names, pairs = metainfo['keypoint_id2name'], np.array(_named_pairs(metainfo), int)
    left, right = pairs.reshape(-1, 2).T
    both = (instances.visible[:, left] > 0) & (instances.visible[:, right] > 0)  # (N, P)
    sides = np.sign(instances.keypoints[:, left, 0] - instances.keypoints[:, right, 0]) * both
    agrees = sides * np.sign(sides.sum(1, keepdims=True) - sides)  # 1 yes, -1 no, 0 cannot tell
    number, of = (agrees > 0).sum(0), (agrees != 0).sum(0)
    crossed = [
        f'{names[left[p]]}/{names[right[p]]} (as the others in {number[p]} of {of[p]})'
        for p in np.flatnonzero((of >= MIN_INSTANCES) & (number < MIN_AGREEMENT * of))
    ]
    what = 'left/right pairs that mostly lie the other way round than the other pairs'
    remedy = 'are their left and right mixed up, in the file or in the metainfo?'
    return [AnnotationIssue('metainfo', what, remedy, crossed)] if crossed else []
