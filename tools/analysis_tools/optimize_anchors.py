# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures how well a config's anchors fit its training data, and finds better ones if needed.

MMDetection's tool of the same name optimizes the IoU of YOLO anchors on three levels. KAPAO matches
anchors by the ratio of the sides instead.
"""

import argparse
import os
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import add_config_options, exit_on_input_error

LEGEND = """
recall: share of objects that an anchor matches; anchors: how many match an object on average
P3...: share of objects that this level learns; keypoint objects: one of each size
in training: at several scales of the config's range, but whole (mosaic and crops cut some)
"""


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument(
        '--target-recall',
        type=float,
        help="find anchors if the recall of a kind of objects is lower [the search's own target]",
    )
    parser.add_argument('--force', action='store_true', help='find anchors in any case')
    parser.add_argument(
        '--out', type=Path, help='write them to this file, a config that inherits CONFIG'
    )
    add_config_options(parser, 'data_root=DIR input_size=640')
    return parser.parse_args()


def as_config(anchors: list[list[list[int]]]) -> str:
    """Formats anchors (L, Na, 2) as lines of a config."""
    levels = [', '.join(str(tuple(anchor)) for anchor in level) for level in anchors]
    rows = '\n'.join(f'            [{level}],' for level in levels)
    return f'model = dict(\n    head=dict(\n        anchors=[\n{rows}\n        ],\n    ),\n)'


def main() -> None:
    """Measures the anchors, and finds others if the recall is too low."""
    args = parse_args()
    if args.out and args.out.exists():
        raise InputError(f'--out {args.out} exists; give another name')
    if args.out:
        check_writable(args.out, ['.py'])
    import numpy as np

    from kapao_mm import register_all_modules
    from kapao_mm.analysis.anchors import TARGET_RECALL, find_anchors, print_fit
    from kapao_mm.analysis.box_sides import KEYPOINTS, POSES, TRAINING, read_sides
    from kapao_mm.utils.config import load_config

    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    kinds, images = read_sides(cfg)
    head = cfg.model.head
    current, max_ratio = np.array(head.anchors, float), head.assigner.max_ratio
    target = TARGET_RECALL if args.target_recall is None else args.target_recall
    print(
        f'{args.config}: {len(kinds[POSES])} pose objects in {images} images, input '
        f'{cfg.input_size} px, ratio below {max_ratio:g}{LEGEND}'
    )
    recall = print_fit('current anchors', kinds, current, head.strides, max_ratio)
    if recall >= target and not args.force:
        print(f'They fit: no recall is below {target:g} (--force finds others).')
        return

    found = find_anchors([kinds[TRAINING], kinds[KEYPOINTS]], current, head.strides, max_ratio)
    print_fit('new anchors', kinds, found, head.strides, max_ratio)
    snippet = as_config(found.tolist())
    print(snippet)
    if args.out:
        base = os.path.relpath(args.config, args.out.parent)
        with atomic_path(args.out) as temporary:
            temporary.write_text(f'_base_ = {base!r}\n\n{snippet}\n')
        again = ', with the same --cfg-options' if args.cfg_options else ''
        print(f'\nNext: kapao train {args.out}{again}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
