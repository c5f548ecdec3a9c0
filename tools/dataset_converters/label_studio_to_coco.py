# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts an export of Label Studio (keypoints and rectangles) to COCO keypoint JSON.

It reads the exports "JSON", "JSON-MIN" and "COCO". Prefer "JSON": it alone says which rectangle is
the parent of a keypoint, and "COCO" keeps only one keypoint of each name in an image. Without a
parent, a keypoint belongs to the rectangle that contains it. Keypoints whose rectangle is not clear
are left out and counted.
"""

import argparse
from pathlib import Path

from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('export', type=Path, help='exported JSON')
    add('out', type=Path, help='COCO keypoint JSON to write')
    add('--images', type=Path, help='folder of the images, to find their files and sizes')
    add('--config', type=Path, help='labeling configuration (XML), for the order of the labels')
    add('--image-key', help='key of the image in the data of a task [the one with a file name]')
    add(
        '--without-keypoints',
        nargs='+',
        default=[],
        metavar='NAME',
        help='labels of rectangles to which no keypoints belong',
    )
    add('--strict', action='store_true', help='stop at a keypoint that would be left out')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from collections import Counter

from kapao_mm.datasets.annotations.checks import LISTS
from kapao_mm.datasets.annotations.reader import read_annotations, read_json, write_annotations
from kapao_mm.datasets.formats.coco import describe
from kapao_mm.datasets.formats.grouping import LabeledImage, join
from kapao_mm.datasets.formats.label_studio import convert_tasks, order_labels, read_tasks
from kapao_mm.datasets.formats.label_studio_coco import SHARED, convert_coco_export
from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_writable


def read_export(
    args: argparse.Namespace, counts: Counter
) -> tuple[list[LabeledImage], list[str], list[str]]:
    """Reads the labeled images of an export, the categories, and the names of the keypoints."""
    content = read_json(args.export, 'export')
    if isinstance(content, dict):
        content = read_annotations(args.export, LISTS, say=print)
        return convert_coco_export(args.export, content, args.images, counts)
    tasks = read_tasks(args.export, content, args.image_key, counts)
    images = convert_tasks(tasks, args.images, counts)
    return images, *order_labels(images, args.config)


def main() -> None:
    """Converts the export, and prints what was joined, assumed and left out."""
    args, counts = parse_args(), Counter()
    if args.out.resolve() == args.export.resolve():
        raise InputError(f'{args.out} is the export; give another name')
    check_writable(args.out, ['.json'])
    images, categories, names = read_export(args, counts)
    if not images:
        raise InputError(f'{args.export} has no annotated images')
    content, joined = join(images, categories, names, args.without_keypoints, args.strict)
    write_annotations(args.out, content)
    print(f'{args.out}: {describe(joined + counts)}')
    if counts[SHARED]:
        print('  "COCO" has only one keypoint of each name in an image: export "JSON" instead')
    if not args.config:
        print(f'  order of the keypoints: {", ".join(names)}')
    print(f'Next: kapao new-dataset {args.out} --images {args.images or "IMAGES"}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
