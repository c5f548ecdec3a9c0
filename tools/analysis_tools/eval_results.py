# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Evaluates a COCO result file, such as one from tools/test.py, without the model."""

import argparse
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, for its test dataset and test_evaluator')
    parser.add_argument('results', type=Path, help='result file (.json)')
    parser.add_argument('--out', type=Path, help='write the metrics to this file (.json, .yaml)')
    add_config_options(parser, 'data_root=DIR test_evaluator.box_ap=False')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import mmengine
from mmengine.config import Config
from mmpose.registry import DATASETS, METRICS

from kapao_mm import register_all_modules
from kapao_mm.evaluation import KAPAOMetric, read_results
from kapao_mm.utils.config import load_config


def build_metric(cfg: Config) -> KAPAOMetric:
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
            f'{cfg.filename} has {len(evaluators)} KAPAOMetric as test_evaluator, not 1'
        )
    source = cfg.get('test_dataloader', {}).get('dataset', {})
    if 'ann_file' not in source:
        raise InputError(
            f'the test dataset of {cfg.filename} is no single one: {source.get("type")}'
        )
    # Built to check the annotations; images are not needed.
    dataset = DATASETS.build({**source, 'data_prefix': dict(img=''), 'pipeline': []})
    metric = METRICS.build({'ann_file': dataset.ann_file, **evaluators[0], 'format_only': False})
    metric.dataset_meta = dataset.metainfo
    return metric


def main() -> None:
    """Evaluates the result file, and prints the metrics."""
    args = parse_args()
    if args.out:
        check_writable(args.out, ('.json', '.yaml', '.yml'))
    register_all_modules()
    metric = build_metric(load_config(args.config, args.cfg_options))
    results = read_results(args.results)
    metrics = metric.score(results, str(args.results))
    images = len({result['image_id'] for result in results})
    print(f'{args.results}: {len(results)} poses in {images} images, against {metric.ann_file}')
    print(metric.table(metrics))
    if args.out:
        named = {f'{metric.prefix}/{name}': value for name, value in metrics.items()}
        with atomic_path(args.out) as temporary:
            mmengine.dump(named, temporary)
        print(f'metrics: {args.out}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
