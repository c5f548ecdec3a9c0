# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts YOLO pose labels, described by a data.yaml, to COCO keypoint JSON, and back.

    yolo_to_coco.py DATA.yaml OUT
        writes OUT/train.json and so on, one file for each split
    yolo_to_coco.py --reverse TRAIN.json [VAL.json [TEST.json]] OUT --images DIR
        writes OUT/data.yaml, OUT/labels and OUT/images with links to the images

OUT is a new folder.
"""

import argparse
from pathlib import Path

from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('files', type=Path, nargs='+', metavar='FILE', help='data.yaml, or JSON with --reverse')
    add('out', type=Path, metavar='OUT', help='folder to write')
    add('--keypoints', nargs='+', default=[], metavar='NAME', help='names of the keypoints')
    add('--reverse', action='store_true', help='write YOLO pose labels from COCO keypoint JSON')
    add(
        '--images',
        type=Path,
        nargs='+',
        default=[],
        metavar='DIR',
        help='with --reverse: folder that file_name is relative to, one for all files or one for '
        'each [folder of the JSON]',
    )
    args = parser.parse_args()
    if args.reverse and (len(args.files) > 3 or args.keypoints):
        parser.error('--reverse needs one to three JSON files, and no --keypoints')
    if args.reverse and len(args.images) not in (0, 1, len(args.files)):
        parser.error('--images needs one folder, or one for each file')
    if not args.reverse and (len(args.files) > 1 or args.images):
        parser.error('give data.yaml and OUT; --images belongs to --reverse')
    return args


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from collections import Counter

from kapao_mm.datasets.annotations.new_data import read_new_annotations
from kapao_mm.datasets.annotations.reader import write_annotations
from kapao_mm.datasets.formats.coco import describe
from kapao_mm.datasets.formats.yolo import convert_split, count_unused
from kapao_mm.datasets.formats.yolo_data import SPLITS, read_data
from kapao_mm.datasets.formats.yolo_writer import find_classes, write_data_yaml, write_split
from kapao_mm.utils.atomic_file import atomic_folder


def convert(path: Path, out: Path, keypoints: list[str]) -> None:
    """Writes a COCO JSON for each split, and prints what was read, assumed and left out."""
    counts = Counter(images=0, objects=0)
    data = read_data(path, keypoints, counts)
    with atomic_folder(out) as folder:
        for split in data.splits:
            write_annotations(folder / f'{split}.json', convert_split(data, split, counts))
    counts['label files of no image (left out)'] = count_unused(data)
    print(f'{path}: {describe(counts)}')
    for note in data.notes:
        print(f'  {note}')
    for split, images in data.splits.items():
        print(f'{out / split}.json: {len(images)} images')
    first, *others = data.splits
    val = f' --val {out / others[0]}.json' if others else ''
    print(f'Next: kapao new-dataset {out / first}.json{val} --images {data.root}')


def reverse(paths: list[Path], out: Path, images: list[Path]) -> None:
    """Writes YOLO pose labels, and prints what was written and left out."""
    counts = Counter(images=0, objects=0)
    contents = [read_new_annotations(path) for path in paths]
    classes, splits = find_classes(contents, paths), SPLITS[: len(paths)]
    folders = images * (len(paths) if len(images) == 1 else 1) or [p.parent for p in paths]
    with atomic_folder(out) as folder:
        for split, path, content, source in zip(splits, paths, contents, folders, strict=True):
            write_split(folder, split, path, content, source, counts)
        write_data_yaml(folder, splits, classes)
    print(f'{out / "data.yaml"}: {describe(counts)}; images are links')
    print('  areas, masks and skeletons are not part of the format')


def main() -> None:
    """Converts in the direction that the command line says."""
    args = parse_args()
    if args.reverse:
        reverse(args.files, args.out, args.images)
    else:
        convert(args.files[0], args.out, args.keypoints)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
