# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes the first images of a COCO-format annotation file, with their annotations."""

import argparse
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error, positive


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', type=Path, help='annotation file')
    parser.add_argument('target', type=Path, help='the smaller annotation file to write')
    parser.add_argument('--images', type=positive, required=True, help='number of images')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.datasets.annotations.checks import UNLISTED_IMAGE, id_faults
from kapao_mm.datasets.annotations.issues import find_issues
from kapao_mm.datasets.annotations.reader import raise_faults, read_annotations, write_annotations
from kapao_mm.datasets.annotations.subset import take_images
from kapao_mm.datasets.annotations.values import valid_ids


def main() -> None:
    """Writes the smaller annotation file, and prints what was written."""
    args = parse_args()
    if args.target.resolve() == args.source.resolve():
        raise InputError(f'{args.target} is the source file; give another name')
    content = read_annotations(args.source, ('images', 'annotations'), say=print)
    faults = id_faults('images', content['images'])
    ids = valid_ids(content['images'])
    faults += find_issues('annotations', content['annotations'], [UNLISTED_IMAGE], ids)
    raise_faults(args.source, faults)
    subset = take_images(content, args.images)
    write_annotations(args.target, subset)
    print(f'{args.target}: {args.images} images, {len(subset["annotations"])} annotations')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
