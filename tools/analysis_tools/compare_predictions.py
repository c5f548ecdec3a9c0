# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how half precision or export changes a model's predictions on its test data."""

import argparse
from pathlib import Path

from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import PRECISIONS, add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--precisions', nargs='+', choices=PRECISIONS, default=[], help='of the network in PyTorch'
    )
    parser.add_argument(
        '--model-files',
        nargs='+',
        default=[],
        metavar='FILE',
        help='files of kapao export --use evaluation',
    )
    parser.add_argument('--out', type=Path, help='write the figures to this file (.json)')
    add_config_options(parser, 'data_root=DIR input_size=1280')
    args = parser.parse_args()
    if not args.precisions + args.model_files:
        parser.error('give --precisions or --model-files, to compare with PyTorch in float32')
    return args


def main() -> None:
    """Compares the models, and writes the figures."""
    options = vars(parse_args())
    out = options.pop('out')
    if out:
        check_writable(out, ['.json'])
    from kapao_mm import register_all_modules
    from kapao_mm.analysis.pose_comparison import compare_models
    from kapao_mm.analysis.report import write_report

    register_all_modules()
    report = compare_models(**options)
    if out:
        write_report(report, out)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
