# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws the picture of the README that explains pose objects, keypoint objects and fusion.

It needs neither weights nor data: the people are drawn, and the objects are their labels, with
errors added to the keypoints of the pose objects.
"""

import argparse
from pathlib import Path

from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=Path, default='docs/images/method.jpg', help='picture file [%(default)s]'
    )
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.analysis.method_figure import draw_method
from kapao_mm.utils.image_files import make_folder, write_picture


def main() -> None:
    """Draws the picture."""
    args = parse_args()
    make_folder(args.out.parent)
    print(write_picture(draw_method()[..., ::-1], args.out))


if __name__ == '__main__':
    with exit_on_input_error():
        main()
