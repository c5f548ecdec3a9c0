# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds valid but suspicious entries in a COCO-format annotation file."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from .checks import Finding, are_numbers, categories_by_id, find_entries
from .describe import left_right_pairs

TOLERANCE = 1  # px that a label may lie outside its box or image because of rounding
SMALL = 8  # px, the stride of the finest grid
CROSSED = 0.25  # a left/right pair is suspicious if it agrees with the others in a smaller share
FEWEST = 20  # minimum number of instances to judge a pair


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
    """

    ids: np.ndarray
    images: np.ndarray
    image_sizes: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    crowd: np.ndarray


def gather_instances(annotations: dict, metainfo: dict) -> Instances:
    """Converts annotations to arrays.

    Args:
        annotations: Content of a COCO-format file without errors.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
    """
    entries, images = annotations['annotations'], annotations['images']
    place = {image['id']: i for i, image in enumerate(images)}
    of_image = np.array([place[entry['image_id']] for entry in entries], int)
    known = categories_by_id(annotations, metainfo)
    categories = np.array([known.get(entry['category_id'], 0) for entry in entries], int)
    boxes = np.array([entry['bbox'] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    keypoints = np.zeros((len(entries), metainfo['num_keypoints'], 3))
    for index, category in enumerate(metainfo['categories']):
        rows, types = np.flatnonzero(categories == index), category['keypoint_ids']
        own = np.array([entries[row]['keypoints'] for row in rows], float)
        keypoints[rows[:, None], types] = own.reshape(-1, len(types), 3)
    return Instances(
        ids=np.array([entry['id'] for entry in entries], int),
        images=of_image,
        image_sizes=image_sizes(images)[of_image],
        categories=categories,
        boxes=boxes,
        keypoints=keypoints[..., :2],
        visible=keypoints[..., 2],
        crowd=np.array([bool(entry.get('iscrowd')) for entry in entries], bool),
    )


def box_sides(instances: Instances, input_size: int) -> np.ndarray:
    """Returns the sides (w, h) of boxes clipped to their images, (n, 2) px of the network input.

    Crowd regions and boxes without area inside the image are left out.

    Args:
        instances: The annotations.
        input_size: Longer side of the network input, px.
    """
    sides = inner_sides(instances, input_size)
    return sides[(sides > 0).all(1) & ~instances.crowd]


def inner_sides(instances: Instances, input_size: int | None = None) -> np.ndarray:
    """Returns the sides (w, h) of all boxes clipped to their images, (N, 2).

    The sides are in px of the network input if ``input_size`` is given, otherwise in px of the
    original image. Boxes outside their image have a side of 0.

    Args:
        instances: The annotations.
        input_size: Longer side of the network input, px.
    """
    sizes = instances.image_sizes
    boxes = instances.boxes.clip(0, np.tile(sizes, 2))
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    return sides if input_size is None else sides * (input_size / sizes.max(1, keepdims=True))


def image_sizes(images: list[dict]) -> np.ndarray:
    """Returns the sizes (w, h) of n images as given in the file, (n, 2) int px."""
    return np.array([(image['width'], image['height']) for image in images], int).reshape(-1, 2)


def things_to_look_at(annotations: dict, metainfo: dict, instances: Instances) -> list[Finding]:
    """Finds valid but suspicious entries, and says how training or evaluation treats them.

    Args:
        annotations: Content of a COCO-format file without errors.
        metainfo: Metainfo as returned by :func:`read_metainfo`.
        instances: The same annotations as arrays, see :func:`gather_instances`.
    """
    findings = [
        _unswapped_names(metainfo),
        _other_names(annotations, metainfo),
        _crossed_pairs(metainfo, instances),
        *_images(annotations['images'], instances),
        *_boxes(instances),
        *_keypoints(annotations['annotations'], instances),
    ]
    return [finding for finding in findings if finding.ids]


def _named_pairs(metainfo: dict) -> list[tuple[int, int]]:
    """Returns the indices (left, right) of keypoint types whose names form a left/right pair."""
    names = metainfo['keypoint_id2name']
    return [
        (category['keypoint_ids'][left], category['keypoint_ids'][right])
        for category in metainfo['categories']
        for left, right in left_right_pairs([names[i] for i in category['keypoint_ids']])
    ]


def _unswapped_names(metainfo: dict) -> Finding:
    flip, names = metainfo['flip_indices'], metainfo['keypoint_id2name']
    return Finding(
        'metainfo',
        'keypoint types that are left and right by their names, but do not swap',
        'where they are a pair, write their swap in the metainfo: a flip mixes them up',
        [f'{names[i]}/{names[j]}' for i, j in _named_pairs(metainfo) if flip[i] != j],
    )


def _other_names(annotations: dict, metainfo: dict) -> Finding:
    """Finds categories of the file whose keypoint names differ from the metainfo."""
    names, known = metainfo['keypoint_id2name'], categories_by_id(annotations, metainfo)
    others, example = [], ''
    for entry in annotations.get('categories', []):
        if not entry.get('keypoints') or entry['id'] not in known:
            continue
        theirs = entry['keypoints'] if isinstance(entry['keypoints'], list) else []
        category = metainfo['categories'][known[entry['id']]]
        own = [names[i].removeprefix(f'{category["name"]}/') for i in category['keypoint_ids']]
        if theirs != own:
            others.append(entry['id'])
            pairs = zip(theirs, own, strict=False)
            differing = (f'{name} for {ours}' for name, ours in pairs if name != ours)
            example = example or next(differing, f'{len(theirs)} names')
    return Finding(
        'categories',
        f"categories whose names of keypoints are not the metainfo's ({example})",
        'labels go by their order: is it the same?',
        others,
    )


def _crossed_pairs(metainfo: dict, instances: Instances) -> Finding:
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
    return Finding(
        'metainfo',
        'left/right pairs that mostly lie the other way round than the other pairs',
        'are their left and right mixed up, in the file or in the metainfo?',
        [
            f'{names[left[p]]}/{names[right[p]]} (as the others in {number[p]} of {of[p]})'
            for p in np.flatnonzero((of >= FEWEST) & (number < CROSSED * of))
        ],
    )


def _images(images: list[dict], instances: Instances) -> list[Finding]:
    ids = np.array([image['id'] for image in images], int)
    count = Counter(image['file_name'] for image in images)
    shared = np.array([count[image['file_name']] > 1 for image in images], bool)
    return [
        Finding('images', what, remedy, ids[mask].tolist())
        for what, remedy, mask in (
            (
                'images without annotations',
                'training learns that nothing is there',
                np.bincount(instances.images, minlength=len(images)) == 0,
            ),
            (
                f'images less than {SMALL} px wide or high',
                'are they meant?',
                image_sizes(images).min(1) < SMALL,
            ),
            ('images that share their file with others', 'join their annotations', shared),
        )
    ]


def _boxes(instances: Instances) -> list[Finding]:
    boxes = instances.boxes
    clipped = boxes.clip(0, np.tile(instances.image_sizes, 2))
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    outside = (clipped[:, 2:] <= clipped[:, :2]).any(1) & ~flat
    beyond = (np.abs(boxes - clipped) > TOLERANCE).any(1) & ~outside & ~flat
    left_out = 'training leaves them out'
    return [
        Finding('annotations', what, remedy, instances.ids[mask].tolist())
        for what, remedy, mask in (
            ('crowd regions', left_out, instances.crowd),
            ('boxes without area', f'{left_out}; box AP misses them', flat),
            ('boxes outside their image', left_out, outside),
            (f'boxes more than {TOLERANCE} px beyond their image', 'training clips them', beyond),
        )
    ]


def _keypoints(entries: list[dict], instances: Instances) -> list[Finding]:
    points, labelled = instances.keypoints, instances.visible > 0
    low, high = instances.boxes[:, None, :2], instances.boxes[:, None, 2:]
    off_image = (points < 0) | (points > instances.image_sizes[:, None])
    off_box = (points < low - TOLERANCE) | (points > high + TOLERANCE)
    counts = np.stack((labelled.sum(1), (instances.visible == 2).sum(1)))  # (2, N)
    written = np.array(
        [entry.get('num_keypoints', counts[0, i]) for i, entry in enumerate(entries)], float
    )
    findings = [
        Finding('annotations', what, remedy, instances.ids[mask].tolist())
        for what, remedy, mask in (
            (
                'annotations without labelled keypoints',
                'training learns their boxes alone',
                ~labelled.any(1) & ~instances.crowd,
            ),
            (
                'annotations with keypoints outside their image',
                "these become no keypoint objects, unless keypoints_outside='clip' (CrowdPose)",
                (off_image.any(-1) & labelled).any(1),
            ),
            (
                f'annotations with keypoints more than {TOLERANCE} px outside their box',
                'does the box hold the whole object?',
                (off_box.any(-1) & labelled).any(1),
            ),
            (
                'annotations with visibilities other than 0, 1 and 2',
                'those above 0 count as labelled',
                ~np.isin(instances.visible, (0, 1, 2)).all(1),
            ),
            (
                "annotations whose 'num_keypoints' is neither that of visibility 1 and 2 nor of 2",
                'evaluation of CrowdPose goes by it, all else by the visibilities',
                (written != counts).all(0),
            ),
        )
    ]
    arealess = find_entries(
        'annotations',
        entries,
        "annotations without an 'area' above 0",
        'evaluation needs it, or use_area=False in the metric',
        lambda entry: not (are_numbers([entry.get('area')]) and entry['area'] > 0),
    )
    return [*findings, arealess]
