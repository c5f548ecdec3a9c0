# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements the COCO evaluation of MMEngine's test and validation loops."""

from collections.abc import Mapping, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MessageHub, MMLogger, print_log
from mmpose.evaluation import CocoMetric
from mmpose.evaluation.functional import transform_ann, transform_pred
from mmpose.registry import METRICS

from kapao_mm.datasets.annotations.checks import categories_by_id, file_faults, id_faults
from kapao_mm.datasets.annotations.issues import find_issues, tell
from kapao_mm.datasets.annotations.keypoint_names import order_keypoints
from kapao_mm.datasets.annotations.reader import raise_faults, read_annotations
from kapao_mm.datasets.metainfo import category_ids
from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_writable

from .coco_evaluation import (
    KEYPOINT_METRICS,
    NO_TRUTH,
    WITHOUT_FUSION,
    count_truths,
    evaluate_results,
    format_metrics,
    index_annotations,
    metric_names,
)
from .label_checks import NO_AREA, label_faults
from .results import KEYPOINT_POSES, RESULT_SUFFIX, check_results, make_results, write_results


@METRICS.register_module()
class KAPAOMetric(CocoMetric):
    """MMPose's CocoMetric with the AP of each category, box AP and the scores of KAPAO.

    The score of a pose is that of its pose object, and poses are not suppressed by OKS
    (docs/method.md, Inference). So MMPose's arguments ``score_mode`` and ``nms_mode`` do not exist.
    Predictions are turned into COCO result records, which are then evaluated by
    :func:`evaluate_results`. Therefore ``tools/analysis_tools/eval_results.py`` computes the same
    metrics from a file of these records.

    Args:
        ann_file: Path of the annotation file. The default is that of the dataset.
        use_area: See :func:`evaluate_results`. Without ``area`` in the file, False is used
            with a warning.
        iou_type: See :func:`evaluate_results`.
        box_ap: See :func:`evaluate_results`.
        compare_fusion: Whether to report also the keypoint AP before fusion, and which of the two
            is better. The evaluation of keypoint AP takes half as long again.
        format_only: Whether to write the records without evaluating them, for ground truth that is
            kept secret (COCO test-dev).
        outfile_prefix: Path and start of the name of the file of records,
            ``PREFIX.keypoints.json``. None writes no file.
        pred_converter: As in :class:`CocoMetric`; only for a single category.
        gt_converter: As in :class:`CocoMetric`; only for a single category.
        collect_device: How several processes collect their results. The default 'gpu' uses their
            process group, also on CPUs. MMEngine's 'cpu' needs a folder that all machines share.
        prefix: Prefix of the names of metrics, 'coco' by default.

    Raises:
        InputError: If arguments contradict each other, or the annotation file does not fit.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        use_area: bool = True,
        iou_type: str = 'keypoints',
        box_ap: bool = True,
        compare_fusion: bool = True,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        pred_converter: dict | None = None,
        gt_converter: dict | None = None,
        collect_device: str = 'gpu',
        prefix: str | None = None,
    ) -> None:
        if iou_type not in KEYPOINT_METRICS:
            raise InputError(f'iou_type is {iou_type!r}; set {" or ".join(KEYPOINT_METRICS)}')
        if format_only and not outfile_prefix:
            raise InputError('format_only needs outfile_prefix, the path of the results')
        if outfile_prefix:
            check_writable(f'{outfile_prefix}{RESULT_SUFFIX}')
        if ann_file and not Path(ann_file).is_file():
            raise InputError(f'annotation file {Path(ann_file).absolute()} does not exist')
        super().__init__(
            ann_file=None,  # MMPose would load the file without checks
            use_area=use_area,
            iou_type=iou_type,
            pred_converter=pred_converter,
            gt_converter=gt_converter,
            collect_device=collect_device,
            prefix=prefix,
            outfile_prefix=outfile_prefix or '',
        )
        self.ann_file = ann_file
        self.format_only = format_only
        self.box_ap = box_ap
        self.compare_fusion = compare_fusion

    @CocoMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Sets the metainfo of the dataset, and loads and checks the annotation file.

        The metainfo of MMPose's own datasets lacks ``categories``. It is treated as one category.
        """
        meta = _with_categories(dataset_meta)
        self._check_annotations(meta)
        CocoMetric.dataset_meta.fset(self, meta)  # changes meta if there is a gt_converter
        meta.update(_with_categories(meta))
        self._warn_of_empty_categories()

    def _check_annotations(self, meta: dict[str, Any]) -> None:
        """Loads the annotation file, checks it, and adds its categories to the metainfo.

        Raises:
            InputError: If the file has errors or does not fit the metainfo or the arguments.
        """
        if len(meta['categories']) > 1 and (self.gt_converter or self.pred_converter):
            raise InputError('gt_converter and pred_converter work with a single category only')
        path = self._annotation_path(meta)
        content = read_annotations(path) if self.coco is None else self.coco.dataset
        faults = file_faults(content, meta, test_mode=True)
        raise_faults(path, faults or id_faults('images', content['images']))
        meta['CLASSES'] = content['categories']
        self._check_categories(path, meta)
        if self.format_only:
            content = dict(images=content['images'], categories=content['categories'])
        elif 'annotations' in content:
            self._choose_area(path, content)
            raise_faults(path, label_faults(content, meta, self.use_area, self.iou_type))
            tell(path, order_keypoints(content, meta, categories_by_id(content, meta)))
        else:
            raise InputError(
                f'annotation file {path} has no annotations to evaluate against; '
                'kapao test --format-only writes results without them'
            )
        self.coco = index_annotations(content)

    def _choose_area(self, path: str, content: dict) -> None:
        """Estimates areas from boxes (``use_area=False``) if annotations have none, and warns."""
        missing = find_issues('annotations', content['annotations'], [NO_AREA])
        if self.use_area and missing:
            self.use_area = False
            print_log(f'annotation file {path}: {missing[0].counted()}', 'current', WARNING)

    def _annotation_path(self, meta: Mapping[str, Any]) -> str:
        """Returns the path of the annotation file: the metric's own, or that of the dataset."""
        name = meta['dataset_name']
        path = self.ann_file or MessageHub.get_current_instance().get_info(f'{name}_ann_file', None)
        if path is None:
            raise InputError(
                f'the annotation file of dataset {name!r} is not known: set test_evaluator.ann_file'
            )
        return path

    @staticmethod
    def _check_categories(path: str, meta: Mapping[str, Any]) -> None:
        """Warns of categories of the model that the annotation file does not have.

        Raises:
            InputError: If the file has none of the categories.
        """
        names = [category['name'] for category in meta['categories']]
        missing = [name for name, ids in zip(names, category_ids(meta), strict=True) if not ids]
        if len(missing) == len(names):
            raise InputError(
                f'annotation file {path} has none of the categories {", ".join(names)}'
            )
        if missing:
            MMLogger.get_current_instance().warning(
                f'annotation file {path} has no category {", ".join(missing)}: not evaluated'
            )

    def _warn_of_empty_categories(self) -> None:
        """Warns of categories without labeled keypoints, for which there is no keypoint AP."""
        if self.format_only:
            return
        meta = self.dataset_meta
        counts = count_truths(self._ground_truth(), meta, self.iou_type, self.use_area)
        empty = [name for name, count in counts.items() if not count]
        if empty:
            lost = ', and no checkpoint becomes the best' if len(empty) == len(counts) else ''
            MMLogger.get_current_instance().warning(
                f'annotation file {self._annotation_path(meta)} has no labeled keypoints outside '
                f'crowd regions for {", ".join(empty)}: there is no keypoint AP{lost}'
            )

    def _ground_truth(self) -> dict[str, Any]:
        """Returns the annotations to evaluate against, converted if ``gt_converter`` is given."""
        annotations = self.coco.dataset
        if self.gt_converter:
            # Copied because MMPose changes them; it would count unlabeled keypoints as well.
            copies = [
                {key: value for key, value in ann.items() if key != 'num_keypoints'}
                for ann in annotations['annotations']
            ]
            transform_ann(copies, *_conversion(self.gt_converter))
            annotations = {**annotations, 'annotations': copies}
        return annotations

    def process(self, data_batch: Sequence[dict], data_samples: Sequence[dict]) -> None:
        """Stores the predictions of a batch as the records of each image."""
        for sample in data_samples:
            poses = dict(sample['pred_instances'])
            regressed = poses.get('pose_keypoints') if self.compare_fusion else None
            unfused = None
            if regressed is not None and not np.array_equal(regressed, poses['keypoints']):
                before = poses | dict(keypoints=regressed)
                unfused = self._make_records(sample['img_id'], before, KEYPOINT_POSES)
            self.results.append((self._make_records(sample['img_id'], poses), unfused))

    def _make_records(self, image_id: int, poses: dict, *max_poses: int) -> list[dict]:
        """Turns the poses of an image into records with the keypoints of the dataset."""
        expected = self.dataset_meta['num_keypoints']
        if self.pred_converter:
            poses = dict(poses)
            transform_pred(poses, *_conversion(self.pred_converter))
        if (count := poses['keypoints'].shape[1]) != expected:
            raise InputError(
                f'predictions have {count} keypoints, the dataset '
                f'{self.dataset_meta["dataset_name"]!r} has {expected}: give the metric a '
                'pred_converter'
            )
        return make_results(image_id, poses, self.dataset_meta, *max_poses)

    def compute_metrics(
        self, results: list[tuple[list[dict], list[dict] | None]]
    ) -> dict[str, float]:
        """Writes the records if ``outfile_prefix`` is given, and evaluates them.

        Args:
            results: For each image its records, and its records with the keypoints before fusion,
                or None if nothing was fused.

        Returns:
            The metrics of :func:`evaluate_results`; an empty dict with ``format_only``.
        """
        logger = MMLogger.get_current_instance()
        records = [record for fused, _ in results for record in fused]
        unfused = None
        if any(before is not None for _, before in results):
            parts = (fused if before is None else before for fused, before in results)
            unfused = [record for part in parts for record in part]
        if not records:
            logger.warning(
                f'no pose in {len(results)} images scored above model.test_cfg.pose_score_thr'
            )
        if self.outfile_prefix:
            path = Path(f'{self.outfile_prefix}{RESULT_SUFFIX}')
            write_results(records, path)
            logger.info(f'results: {path}, {len(records)} poses in {len(results)} images')
        if self.format_only:
            return {}
        metrics = self.score(records, 'the predictions', unfused)
        logger.info(f'{self.prefix}\n{self.table(metrics)}')
        if metrics.get(WITHOUT_FUSION, NO_TRUTH) != NO_TRUTH:
            logger.info(describe_fusion(metrics))
        return metrics

    def score(
        self, records: list[dict], source: str, unfused: list[dict] | None = None
    ) -> dict[str, float]:
        """Evaluates records against the annotation file.

        Args:
            records: COCO result records, see :func:`make_results`.
            source: Where the records are from, for messages.
            unfused: Records with the keypoints before fusion, for comparison.

        Returns:
            The metrics of :func:`evaluate_results`.

        Raises:
            InputError: If the records do not fit the annotation file.
        """
        annotations = self._ground_truth()
        for part in filter(None, (records, unfused)):
            check_results(part, source, annotations, self.dataset_meta, boxes=self.box_ap)
        return evaluate_results(
            annotations,
            records,
            self.dataset_meta,
            iou_type=self.iou_type,
            use_area=self.use_area,
            box_ap=self.box_ap,
            unfused=unfused,
        )

    @property
    def metric_names(self) -> list[str]:
        """Returns the names of the metrics, such as 'coco/AP'; the metainfo must be set before."""
        names = metric_names(self.dataset_meta['categories'], self.iou_type, self.box_ap)
        return [] if self.format_only else [f'{self.prefix}/{name}' for name in names]

    def table(self, metrics: dict[str, float]) -> str:
        """Formats the metrics of :meth:`score` as a table, see :func:`format_metrics`."""
        names = [category['name'] for category in self.dataset_meta['categories']]
        return format_metrics(metrics, names)


def _conversion(converter: dict) -> tuple[int, list]:
    return converter['num_keypoints'], converter['mapping']


def _with_categories(metainfo: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a metainfo in which ``categories`` is set.

    A metainfo with no or one category (MMPose's datasets have none) gets one category of all
    ``num_keypoints`` keypoint types.
    """
    meta = dict(metainfo)
    if len(meta.get('categories', ())) < 2:  # a converter may have changed num_keypoints
        ids = list(range(meta['num_keypoints']))
        meta['categories'] = [dict(name=meta['dataset_name'], keypoint_ids=ids)]
    return meta


def describe_fusion(metrics: Mapping[str, float]) -> str:
    """Returns a sentence that says whether keypoint AP is higher with or without fusion.

    Args:
        metrics: Metrics of :func:`evaluate_results` with 'AP without fusion'.
    """
    fused, unfused = metrics['AP'], metrics[WITHOUT_FUSION]
    if fused > unfused:
        advice = 'fusion helps on these images'
    elif fused == unfused:
        advice = 'fusion changes nothing on these images'
    else:
        advice = (
            'better without: set model.test_cfg.fusion_distance=0, or find a better distance with '
            'kapao sweep --key model.test_cfg.fusion_distance'
        )
    return f'AP {fused:.4f} with fusion, {unfused:.4f} without; {advice}'
