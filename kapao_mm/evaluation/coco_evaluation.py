# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Evaluates result records with COCO's tools: keypoint AP and box AP of each category."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import xtcocotools.coco
import xtcocotools.cocoeval

from kapao_mm.datasets.metainfo import category_ids

# Names that MMPose gives to the metrics of xtcocotools, in the order of its ``stats``.
KEYPOINT_METRICS = dict(
    keypoints=(
        *('AP', 'AP .5', 'AP .75', 'AP (M)', 'AP (L)'),
        *('AR', 'AR .5', 'AR .75', 'AR (M)', 'AR (L)'),
    ),
    keypoints_crowd=(
        *('AP', 'AP .5', 'AP .75', 'AR', 'AR .5', 'AR .75'),
        *('AP(E)', 'AP(M)', 'AP(H)'),
    ),
)
# Indices of the box metrics in the ``stats`` of pycocotools.
BOX_METRICS = {'box AP': 0, 'box AP .5': 1, 'box AP .75': 2, 'box AR': 8}
WITHOUT_FUSION = 'AP without fusion'
NO_TRUTH = -1.0  # COCO's value of a metric without ground truth


def evaluate_results(
    annotations: Mapping[str, Any],
    results: list[dict],
    metainfo: Mapping[str, Any],
    *,
    iou_type: str = 'keypoints',
    use_area: bool = True,
    box_ap: bool = True,
    unfused: list[dict] | None = None,
) -> dict[str, float]:
    """Evaluates result records against annotations, each category separately.

    A category of the metainfo can have several category ids in the annotation file, which are
    evaluated together. Images that list one of these ids in ``not_exhaustive_category_ids`` (a key
    of LVIS) are left out for the category, because not all of its objects were labeled there.

    Args:
        annotations: Content of an annotation file in COCO's format in which ``label_faults`` (of
            ``label_checks.py``) finds no faults; not changed.
        results: Records that ``check_results`` (of ``results.py``) accepts; not changed.
        metainfo: Metainfo with ``categories``, ``CLASSES`` (see :func:`category_ids`) and
            ``sigmas``, COCO's constants (K,) of the keypoint types.
        iou_type: 'keypoints', or 'keypoints_crowd' for the metrics of CrowdPose, see
            :data:`KEYPOINT_METRICS`.
        use_area: Whether OKS uses the ``area`` (px^2) of an annotation. If False, it uses 0.53
            times the area of the box, as CrowdPose does.
        box_ap: Whether to add the box metrics. These also count objects without labeled keypoints.
        unfused: Records with the keypoints before fusion, whose keypoint AP is added as 'AP without
            fusion'; None to leave it out.

    Returns:
        The values of the keypoint metrics, the box metrics and 'AP without fusion' by name. A value
        is in 0..1, or :data:`NO_TRUTH`. With several categories, the values are means over the
        categories with ground truth, followed by the values of each category under names such as
        'wheel/AP'. A category without keypoint types has the box metrics only.
    """
    by_category = {}
    for category, ids in zip(metainfo['categories'], category_ids(metainfo), strict=True):
        types = category['keypoint_ids']
        tables = _take_category(annotations, results, set(ids), use_area and bool(types))
        sigmas = np.asarray(metainfo['sigmas'])[types]
        metrics = {}
        with contextlib.redirect_stdout(io.StringIO()):  # hides the tables of COCO's tools
            if types:
                metrics |= _keypoint_metrics(*tables, sigmas, iou_type, use_area)
            metrics |= _box_metrics(*tables) if box_ap else {}
            if types and unfused is not None:
                tables = _take_category(annotations, unfused, set(ids), use_area)
                metrics[WITHOUT_FUSION] = _keypoint_ap(*tables, sigmas, iou_type, use_area)
        by_category[category['name']] = metrics
    if len(by_category) == 1:
        return metrics
    keys = max(by_category.values(), key=len)  # of a category with keypoints
    means = {key: _mean(m.get(key, NO_TRUTH) for m in by_category.values()) for key in keys}
    return means | {
        f'{name}/{key}': value for name, part in by_category.items() for key, value in part.items()
    }


def metric_names(categories: Sequence[Mapping[str, Any]], iou_type: str, box_ap: bool) -> list[str]:
    """Returns the names of the keypoint and box metrics of :func:`evaluate_results`, in its order.

    Args:
        categories: Categories of the metainfo.
        iou_type: As in :func:`evaluate_results`.
        box_ap: As in :func:`evaluate_results`.
    """
    boxes = [*BOX_METRICS] if box_ap else []
    names = [*KEYPOINT_METRICS[iou_type], *boxes]
    several = categories if len(categories) > 1 else []
    return names + [
        f'{category["name"]}/{name}'
        for category in several
        for name in (names if category['keypoint_ids'] else boxes)
    ]


def count_truths(
    annotations: Mapping[str, Any], metainfo: Mapping[str, Any], iou_type: str, use_area: bool
) -> dict[str, int]:
    """Counts, for each category, the annotated objects that keypoint AP takes as ground truth.

    These are the objects with labeled keypoints that are not marked as crowd.

    Args:
        annotations: As in :func:`evaluate_results`.
        metainfo: As in :func:`evaluate_results`.
        iou_type: As in :func:`evaluate_results`.
        use_area: As in :func:`evaluate_results`.

    Returns:
        Numbers of objects by name of each category that has keypoint types.
    """
    counts = {}
    for category, ids in zip(metainfo['categories'], category_ids(metainfo), strict=True):
        if not category['keypoint_ids']:
            continue
        _, truths, _ = _take_category(annotations, [], set(ids), use_area)
        labeled = [  # for CrowdPose, xtcocotools reads num_keypoints, which counts fewer keypoints
            truth['num_keypoints'] if iou_type == 'keypoints_crowd' else count_labeled(truth)
            for truth in truths
            if not truth['iscrowd']
        ]
        counts[category['name']] = np.count_nonzero(labeled)
    return counts


def format_metrics(metrics: Mapping[str, float], categories: list[str]) -> str:
    """Formats the metrics of :func:`evaluate_results` as a table with a row for each metric.

    Several categories have a column each, after that of the mean. Values without ground truth are
    shown as '-'.
    """
    names = categories if len(categories) > 1 else []
    rows = [['', 'mean', *names]] if names else []
    for key in (key for key in metrics if '/' not in key):
        values = [metrics[key], *(metrics.get(f'{name}/{key}', NO_TRUTH) for name in names)]
        rows.append([key, *('-' if value < 0 else f'{value:.4f}' for value in values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(map(str.rjust, row, widths)) for row in rows)


def _take_category(
    annotations: Mapping[str, Any], results: list[dict], ids: set[int], use_area: bool
) -> tuple[list[dict], list[dict], list[dict]]:
    """Returns the images, annotations and results of one category as COCO's tools expect them.

    All records get the category id 1, because with the tools' own pooling of categories
    (``useCats``) no keypoints are found. Records are copied, because the tools write into them.
    Their ids start at 1, because the tools use 0 for "no match".
    """
    images = {
        image['id']: image
        for image in annotations['images']
        if ids.isdisjoint(image.get('not_exhaustive_category_ids', ()))
    }

    def select(records: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
        selected = (r for r in records if r['category_id'] in ids and r['image_id'] in images)
        for i, record in enumerate(selected, 1):
            yield dict(id=i, image_id=record['image_id'], category_id=1), record

    truths = [
        common
        | dict(
            bbox=ann['bbox'],
            area=ann['area'] if use_area else ann['bbox'][2] * ann['bbox'][3],
            iscrowd=ann.get('iscrowd', 0),
            keypoints=ann['keypoints'],
            num_keypoints=ann.get('num_keypoints', count_labeled(ann)),
        )
        for common, ann in select(annotations['annotations'])
    ]
    detections = [
        common | _detection(result) | dict(score=result['score'])
        for common, result in select(results)
    ]
    return list(images.values()), truths, detections


def count_labeled(ann: Mapping[str, Any]) -> int:
    """Counts the labeled keypoints of an annotation."""
    return sum(visible > 0 for visible in ann['keypoints'][2::3])


def _detection(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keypoints, box and area of a result as COCO's tools expect them.

    A result without ``bbox`` gets the box around its keypoints. The area is that of the box, as in
    the tools' own function ``loadRes``.
    """
    keypoints = np.array(result.get('keypoints', []), float).reshape(-1, 3)
    bbox = result.get('bbox') or [*keypoints[:, :2].min(0), *np.ptp(keypoints[:, :2], 0)]
    keypoints[:, 2] = 1  # unused score; xtcocotools drops poses whose scores are all 0
    return dict(bbox=bbox, area=bbox[2] * bbox[3], keypoints=keypoints.ravel())


class _PoseEval(xtcocotools.cocoeval.COCOeval):
    """Evaluates keypoints like xtcocotools, but without the annotation file.

    xtcocotools reads the file again to split CrowdPose into easy, medium and hard images.
    """

    def split(self, gt_file: None, first: float, second: float) -> tuple[list, list, list]:
        """Returns the ids of the easy, medium and hard images.

        Args:
            gt_file: Path of the annotation file in xtcocotools; not used.
            first: ``crowdIndex`` from which images are medium.
            second: ``crowdIndex`` from which images are hard.
        """
        parts = [], [], []
        for image in self.cocoGt.dataset['images']:
            level = np.searchsorted((first, second), image['crowdIndex'], side='right')
            parts[level].append(image['id'])
        return parts


def _pose_eval(
    images: list[dict],
    truths: list[dict],
    detections: list[dict],
    sigmas: np.ndarray,
    iou_type: str,
    use_area: bool,
) -> _PoseEval:
    """Prepares the evaluation of the keypoints of one category.

    Args:
        images: Images, as from :func:`_take_category`.
        truths: Annotations, as from :func:`_take_category`.
        detections: Results, as from :func:`_take_category`.
        sigmas: COCO's constants of the category's keypoint types, (K,).
        iou_type: As in :func:`evaluate_results`.
        use_area: As in :func:`evaluate_results`.
    """
    tables = [_index(images, part) for part in (truths, detections)]
    tables[0].anno_file = [None, None]  # xtcocotools unpacks it for CrowdPose
    return _PoseEval(*tables, iou_type, sigmas, use_area)


def _keypoint_metrics(*args: Any) -> dict[str, float]:
    """Computes the keypoint metrics; arguments as in :func:`_pose_eval`."""
    evaluation = _pose_eval(*args)
    iou_type = evaluation.params.iouType
    return dict(zip(KEYPOINT_METRICS[iou_type], _stats(evaluation), strict=True))


def _keypoint_ap(*args: Any) -> float:
    """Computes the keypoint AP alone, which is faster because it skips the ranges of object sizes.

    Arguments are as in :func:`_pose_eval`.
    """
    evaluation = _pose_eval(*args)
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # the range of all sizes
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision']
    known = precision[precision > NO_TRUTH]
    return known.mean().item() if known.size else NO_TRUTH


def _box_metrics(
    images: list[dict], truths: list[dict], detections: list[dict]
) -> dict[str, float]:
    """Computes the box metrics; arguments as in :func:`_pose_eval`."""
    # xtcocotools is not used, because its compiled part does not work with numpy 2.
    tables = [_index(images, part, pycocotools.coco.COCO) for part in (truths, detections)]
    stats = _stats(pycocotools.cocoeval.COCOeval(*tables, 'bbox'))
    return {name: stats[index] for name, index in BOX_METRICS.items()}


def index_annotations(
    content: dict[str, Any], coco: type = xtcocotools.coco.COCO
) -> xtcocotools.coco.COCO:
    """Builds an indexed ``COCO`` object from the content of an annotation file.

    Args:
        content: Content of the file; it is not copied, and the object holds it.
        coco: ``COCO`` class of xtcocotools or pycocotools.
    """
    table = coco()
    table.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # hides its messages
        table.createIndex()
    return table


def _index(images: list[dict], annotations: list[dict], *coco: type) -> Any:
    """Builds the ``COCO`` object of the images and annotations of one category."""
    content = dict(images=images, annotations=annotations, categories=[dict(id=1)])
    return index_annotations(content, *coco)


def _stats(evaluation: Any) -> list[float]:
    """Runs an evaluation of COCO's tools and returns its metrics."""
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.asarray(evaluation.stats).tolist()


def _mean(values: Iterable[float]) -> float:
    """Returns the mean of the values that are not :data:`NO_TRUTH`, or that if there are none."""
    known = [value for value in values if value != NO_TRUTH]
    return sum(known) / len(known) if known else NO_TRUTH
