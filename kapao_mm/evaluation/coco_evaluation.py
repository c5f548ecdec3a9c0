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

# MMPose's names of the metrics of xtcocotools, in the same order.
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
BOX_METRICS = {'box AP': 0, 'box AP .5': 1, 'box AP .75': 2, 'box AR': 8}  # indices in stats
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

    All ids of a category are treated as one id. An image whose ``not_exhaustive_category_ids`` (of
    LVIS) has an id of a category is left out for that category, because its objects were not all
    labeled.

    Args:
        annotations: Content of a COCO-format annotation file that :func:`label_faults` accepts; not
            changed.
        results: Records that :func:`check_results` accepts.
        metainfo: Metainfo with ``categories``, ``CLASSES`` (see :func:`category_ids`) and
            ``sigmas`` (K,).
        iou_type: 'keypoints', or 'keypoints_crowd' to add the easy, medium and hard parts of
            CrowdPose.
        use_area: Whether OKS uses the ``area`` of an annotation. False uses 0.53 of its box's area
            (CrowdPose).
        box_ap: Whether to add the box metrics. For these, people without labeled keypoints count
            too.
        unfused: Records with the keypoints before fusion, to add their keypoint AP.

    Returns:
        The keypoint metrics, then the box metrics, then 'AP without fusion'. Values are in 0..1, or
        :data:`NO_TRUTH`. With several categories these are means over the categories with ground
        truth, followed by the metrics of each category as 'category/AP'. A category without
        keypoint types has the box metrics only.
    """
    found = {}
    for category, ids in zip(metainfo['categories'], category_ids(metainfo), strict=True):
        types = category['keypoint_ids']
        part = _take_category(annotations, results, set(ids), use_area and bool(types))
        sigmas = np.asarray(metainfo['sigmas'])[types]
        metrics = {}
        with contextlib.redirect_stdout(io.StringIO()):  # hides the tables of COCO's tools
            if types:
                metrics |= _keypoint_metrics(*part, sigmas, iou_type, use_area)
            metrics |= _box_metrics(*part) if box_ap else {}
            if types and unfused is not None:
                part = _take_category(annotations, unfused, set(ids), use_area)
                metrics[WITHOUT_FUSION] = _keypoint_ap(*part, sigmas, iou_type, use_area)
        found[category['name']] = metrics
    if len(found) == 1:
        return metrics
    single = {f'{name}/{key}': part[key] for name, part in found.items() for key in part}
    keys = max(found.values(), key=len)  # of a category with keypoints
    return {key: _mean(part.get(key, NO_TRUTH) for part in found.values()) for key in keys} | single


def metric_names(categories: Sequence[Mapping[str, Any]], iou_type: str, box_ap: bool) -> list[str]:
    """Returns the names of the metrics that :func:`evaluate_results` returns, in its order.

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
    """Counts the annotated objects of each category that keypoint AP evaluates.

    Args:
        annotations: As in :func:`evaluate_results`.
        metainfo: As in :func:`evaluate_results`.
        iou_type: As in :func:`evaluate_results`.
        use_area: As in :func:`evaluate_results`.

    Returns:
        Number of objects by name of each category that has keypoint types.
    """
    counts = {}
    for category, ids in zip(metainfo['categories'], category_ids(metainfo), strict=True):
        if not category['keypoint_ids']:
            continue
        _, truths, _ = _take_category(annotations, [], set(ids), use_area)
        numbers = [
            truth['num_keypoints'] if iou_type == 'keypoints_crowd' else count_labeled(truth)
            for truth in truths
            if not truth['iscrowd']
        ]
        counts[category['name']] = np.count_nonzero(numbers)
    return counts


def format_metrics(metrics: Mapping[str, float], categories: list[str]) -> str:
    """Formats the metrics of :func:`evaluate_results` as a table, one column for each category."""
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
    """Returns the images, annotations and results of one category, in the form of COCO's tools.

    All records get the category id 1, because the tools' own pooling of categories (``useCats``)
    finds no keypoints. Records are copied, because the tools write into them. Their ids count from
    1, because the tools use 0 for "no match".
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
    """Returns keypoints, box and area of a result; the area is the box's, as in ``loadRes``."""
    keypoints = np.array(result.get('keypoints', []), float).reshape(-1, 3)
    bbox = result.get('bbox') or [*keypoints[:, :2].min(0), *np.ptp(keypoints[:, :2], 0)]
    keypoints[:, 2] = 1  # unused score; xtcocotools drops poses whose scores are all 0
    return dict(bbox=bbox, area=bbox[2] * bbox[3], keypoints=keypoints.ravel())


class _PoseEval(xtcocotools.cocoeval.COCOeval):
    """Does xtcocotools' evaluation without reading the annotation file again to split CrowdPose."""

    def split(self, gt_file: None, first: float, second: float) -> tuple[list, list, list]:
        """Returns the ids of the easy, medium and hard images."""
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
    tables = [_index(images, part) for part in (truths, detections)]
    tables[0].anno_file = [None, None]
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
    # xtcocotools is not used, because its compiled part does not work with numpy 2.
    tables = [_index(images, part, pycocotools.coco.COCO) for part in (truths, detections)]
    stats = _stats(pycocotools.cocoeval.COCOeval(*tables, 'bbox'))
    return {name: stats[index] for name, index in BOX_METRICS.items()}


def index_annotations(
    content: dict[str, Any], coco: type = xtcocotools.coco.COCO
) -> xtcocotools.coco.COCO:
    """Builds an indexed ``COCO`` object from the content of an annotation file.

    Args:
        content: Content of the file; it is kept, not copied.
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
    """Returns the mean of the values except :data:`NO_TRUTH`, which is returned if all are."""
    known = [value for value in values if value != NO_TRUTH]
    return sum(known) / len(known) if known else NO_TRUTH
