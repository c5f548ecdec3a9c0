# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""COCO evaluation in MMEngine's test and validation loops."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import MMLogger
from mmpose.evaluation import CocoMetric
from mmpose.evaluation.functional import transform_ann, transform_pred
from mmpose.registry import METRICS

from kapao_mm.datasets.metainfo import category_ids
from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_writable

from .coco_evaluation import (
    KEYPOINT_METRICS,
    area_of,
    evaluate_results,
    format_metrics,
    metric_names,
)
from .results import RESULT_SUFFIX, check_results, make_results, write_results


@METRICS.register_module()
class KAPAOMetric(CocoMetric):
    """MMPose's CocoMetric with one AP for each category, box AP and the score of KAPAO.

    A pose's score is its pose object's confidence alone, and nothing is suppressed once more (spec,
    Inference): ``score_mode`` and ``nms_mode``, whose defaults in MMPose differ, are no arguments.
    Predictions become COCO result records, and these are evaluated (:func:`evaluate_results`), so
    that ``tools/analysis_tools/eval_results.py`` finds the same metrics in their file.

    Args:
        ann_file: the annotation file; that of the dataset by default.
        use_area: see :func:`evaluate_results`.
        iou_type: see :func:`evaluate_results`.
        box_ap: see :func:`evaluate_results`.
        format_only: write the records and evaluate nothing, for ground truth that is kept secret
            (COCO test-dev).
        outfile_prefix: the records go to ``PREFIX.keypoints.json``; without it nowhere.
        pred_converter: as in :class:`CocoMetric`; for one category.
        gt_converter: as in :class:`CocoMetric`; for one category.
        collect_device: what several processes collect their results through: by default their
            group, a GPU's or not. MMEngine's 'cpu' needs a folder that all their machines share.
        prefix: of the names of metrics, 'coco' by default.

    Raises:
        InputError: arguments do not go together, or the annotation file does not fit.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        use_area: bool = True,
        iou_type: str = 'keypoints',
        box_ap: bool = True,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        pred_converter: dict | None = None,
        gt_converter: dict | None = None,
        collect_device: str = 'gpu',
        prefix: str | None = None,
    ) -> None:
        if iou_type not in KEYPOINT_METRICS:
            raise InputError(f'iou_type is one of {", ".join(KEYPOINT_METRICS)}, not {iou_type!r}')
        if format_only and not outfile_prefix:
            raise InputError('format_only needs outfile_prefix, where the results go')
        if outfile_prefix:
            check_writable(f'{outfile_prefix}{RESULT_SUFFIX}')
        if ann_file and not Path(ann_file).is_file():
            raise InputError(f'annotation file {Path(ann_file).absolute()} does not exist')
        super().__init__(
            ann_file=ann_file,
            use_area=use_area,
            iou_type=iou_type,
            pred_converter=pred_converter,
            gt_converter=gt_converter,
            collect_device=collect_device,
            prefix=prefix,
            # so that MMPose does not load the file once more to look for annotations
            format_only=True,
            outfile_prefix=outfile_prefix or '',
        )
        self.format_only = format_only
        self.box_ap = box_ap

    @CocoMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Sets the metainfo of the dataset, whose annotation file is loaded if none was given.

        That of MMPose's own datasets lacks ``categories`` and means one.
        """
        CocoMetric.dataset_meta.fset(self, dict(dataset_meta))  # changes it
        meta = self._dataset_meta
        if self.coco is None:
            raise InputError(
                f'the annotation file of dataset {meta["dataset_name"]!r} is not known: give '
                'test_evaluator.ann_file'
            )
        path, content = self.coco.anno_file[0], self.coco.dataset
        if not self.format_only and 'annotations' not in content:
            raise InputError(
                f'annotation file {path} has no annotations to evaluate against; '
                'tools/test.py --format-only writes results without'
            )
        for ann in [] if self.format_only else content['annotations']:
            area_of(ann, self.use_area)  # raises now what is missing, not after the predictions
        meta['CLASSES'] = content.get('categories', [])
        categories = meta.get('categories', [])
        if len(categories) > 1 and (self.gt_converter or self.pred_converter):
            raise InputError('gt_converter and pred_converter are for one category')
        if len(categories) < 2:  # of as many keypoints as the converters leave
            ids = list(range(meta['num_keypoints']))
            meta['categories'] = [dict(name=meta['dataset_name'], keypoint_ids=ids)]
        known = category_ids(meta)
        names = [category['name'] for category in meta['categories']]
        missing = [name for name, ids in zip(names, known, strict=True) if not ids]
        if len(missing) == len(names):
            raise InputError(
                f'annotation file {path} has none of the categories {", ".join(names)}'
            )
        if missing:
            MMLogger.get_current_instance().warning(
                f'annotation file {path} has no category {", ".join(missing)}: not evaluated'
            )

    def process(self, data_batch: Sequence[dict], data_samples: Sequence[dict]) -> None:
        """Stores the predictions of a batch, the records of each image."""
        expected = self.dataset_meta['num_keypoints']
        for sample in data_samples:
            poses = dict(sample['pred_instances'])
            if self.pred_converter:
                transform_pred(poses, *self._conversion(self.pred_converter))
            if (count := poses['keypoints'].shape[1]) != expected:
                raise InputError(
                    f'predictions have {count} keypoints, the dataset '
                    f'{self.dataset_meta["dataset_name"]!r} has {expected}: give the metric a '
                    'pred_converter'
                )
            self.results.append(make_results(sample['img_id'], poses, self.dataset_meta))

    def compute_metrics(self, results: list[list[dict]]) -> dict[str, float]:
        """Writes the records where wanted, and evaluates them.

        Args:
            results: the records of each image.

        Returns:
            The metrics of :func:`evaluate_results`; none with ``format_only``.
        """
        logger = MMLogger.get_current_instance()
        records = [record for image in results for record in image]
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
        metrics = self.score(records, 'the predictions')
        logger.info(f'{self.prefix}\n{self.table(metrics)}')
        return metrics

    def score(self, records: list[dict], source: str) -> dict[str, float]:
        """Evaluates records against the annotation file.

        Args:
            records: COCO result records, see :func:`make_results`.
            source: where they are from, for messages.

        Returns:
            The metrics of :func:`evaluate_results`.

        Raises:
            InputError: records and annotation file do not fit.
        """
        annotations = self.coco.dataset
        if self.gt_converter:
            # MMPose's conversion writes into annotations, and counts unlabelled keypoints too.
            light = [
                {key: value for key, value in ann.items() if key != 'num_keypoints'}
                for ann in annotations['annotations']
            ]
            transform_ann(light, *self._conversion(self.gt_converter))
            annotations = {**annotations, 'annotations': light}
        check_results(records, source, annotations, self.dataset_meta, boxes=self.box_ap)
        return evaluate_results(
            annotations,
            records,
            self.dataset_meta,
            iou_type=self.iou_type,
            use_area=self.use_area,
            box_ap=self.box_ap,
        )

    @property
    def metric_names(self) -> list[str]:
        """The names of its metrics, such as 'coco/AP', once the metainfo of the dataset is set."""
        categories = [category['name'] for category in self.dataset_meta['categories']]
        names = metric_names(categories, self.iou_type, self.box_ap)
        return [] if self.format_only else [f'{self.prefix}/{name}' for name in names]

    def table(self, metrics: dict[str, float]) -> str:
        """The metrics of :meth:`score` for people to read."""
        names = [category['name'] for category in self.dataset_meta['categories']]
        return format_metrics(metrics, names)

    @staticmethod
    def _conversion(converter: dict) -> tuple[int, list]:
        return converter['num_keypoints'], converter['mapping']
