# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how well and how fast people are tracked, and prints tables."""

import argparse
from pathlib import Path

from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import exit_on_input_error, positive


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--model', help='checkpoint or exported model that predicts the toy videos as well [none]'
    )
    parser.add_argument('--config', help='config of the checkpoint [the one inside]')
    parser.add_argument(
        '--photos',
        nargs=2,
        type=Path,
        metavar=('JSON', 'FOLDER'),
        help='COCO annotations and images, over which a camera is moved [none]',
    )
    parser.add_argument('--videos', type=positive, default=4, help='of each source [%(default)s]')
    parser.add_argument('--frames', type=positive, default=120, help='of a video [%(default)s]')
    parser.add_argument('--out', type=Path, help='write the figures to this file (.json)')
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    options = vars(parse_args())
    out = options.pop('out')
    if out:
        check_writable(out, ['.json'])
    from kapao_mm import register_all_modules
    from kapao_mm.analysis.report import write_report
    from kapao_mm.analysis.tracking import benchmark

    register_all_modules()
    report = benchmark(**options)
    if out:
        write_report(report, out)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
