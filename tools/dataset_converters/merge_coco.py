# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Merges COCO-format annotation files, with the same or different categories, into one.

The merged file is for training and testing one model on all of them. Ids are renumbered. Categories
with the same name are merged, and must have the same keypoints. In each image, LVIS's field
``not_exhaustive_category_ids`` lists the categories that were not annotated in it; evaluation
ignores these categories in this image.
"""

import argparse
from pathlib import Path

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path, help='data root; all other paths are relative to it')
    parser.add_argument('out', type=Path, help='merged annotation file to write')
    parser.add_argument(
        '--add',
        nargs=2,
        action='append',
        required=True,
        metavar=('FILE', 'IMAGES'),
        help='annotation file and the folder that its file names are relative to; once per file',
    )
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.datasets.annotations.checks import LISTS
from kapao_mm.datasets.annotations.merge import Source, merge, merge_faults
from kapao_mm.datasets.annotations.reader import raise_faults, read_annotations, write_annotations


def read_source(path: Path, folder: Path) -> dict:
    """Reads a file that will be merged, and checks it and its image folder."""
    content = read_annotations(path, LISTS, say=print, images=folder)
    if not folder.is_dir():
        raise InputError(f'image folder {folder.absolute()} does not exist')
    raise_faults(path, merge_faults(content))
    return content


def main() -> None:
    """Merges the files, and prints what was written."""
    args = parse_args()
    root, out = args.root, args.root / args.out
    sources = [
        Source(root / file, folder, read_source(root / file, root / folder))
        for file, folder in args.add
    ]
    if out.resolve() in [source.path.resolve() for source in sources]:
        raise InputError(f'{out} is one of the files to merge; give another name')
    merged = merge(sources)
    write_annotations(out, merged)
    print(f'{out}: {len(merged["images"])} images, {len(merged["annotations"])} annotations')
    for category in merged['categories']:
        number = sum(a['category_id'] == category['id'] for a in merged['annotations'])
        print(f'  {category["id"]} {category["name"]}: {number} annotations')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
