# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Builds the metric of a config without its model, to evaluate result files."""

from mmengine.config import Config
from mmpose.registry import DATASETS, METRICS

from kapao_mm.datasets import KeypointDataset
from kapao_mm.errors import InputError

from .kapao_metric import KAPAOMetric


def build_test_metric(cfg: Config) -> KAPAOMetric:
    """Builds the metric of a config, with the annotation file of its test dataset.

    Raises:
        InputError: If the config has not exactly one KAPAOMetric and one test dataset, or the
            annotation file has errors.
    """
    evaluators = cfg.get('test_evaluator')
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    evaluators = [e for e in evaluators if e and e.type == 'KAPAOMetric']
    if len(evaluators) != 1:
        raise InputError(
            f'test_evaluator of {cfg.filename} must have one KAPAOMetric, but has {len(evaluators)}'
        )
    source = cfg.get('test_dataloader', {}).get('dataset', {})
    if 'ann_file' not in source:
        raise InputError(
            f'{cfg.filename} must have a single test dataset with ann_file, but has '
            f'{source.get("type", "none")}'
        )
    # The metric reads and checks the annotations; images are not needed.
    unloaded = dict(data_prefix=dict(img=''), pipeline=[], lazy_init=True)
    dataset = DATASETS.build({**source, **unloaded})
    if isinstance(dataset, KeypointDataset):
        dataset.check_paths()
    metric = METRICS.build({'ann_file': dataset.ann_file, **evaluators[0], 'format_only': False})
    metric.dataset_meta = dataset.metainfo
    return metric
