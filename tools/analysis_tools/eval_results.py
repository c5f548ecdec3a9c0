# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Evaluates a COCO result file, such as one from tools/test.py, without the model."""

import argparse
from pathlib import Path

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


def main() -> None:
    """Evaluates the result file, and prints the metrics."""
    args = parse_args()
    if args.out:
        check_writable(args.out, ('.json', '.yaml', '.yml'))
    import mmengine

    from kapao_mm import register_all_modules
    from kapao_mm.evaluation import read_results
    from kapao_mm.evaluation.from_config import build_test_metric
    from kapao_mm.utils.config import load_config

    register_all_modules()
    metric = build_test_metric(load_config(args.config, args.cfg_options))
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
