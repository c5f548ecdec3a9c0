# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts the release of Animal-Pose to the files that configs/kapao/kapao_s_animalpose.py reads.

    ROOT/keypoints.json    annotations of the release
    ROOT/images/           its images
    OUT/annotations/       written: animalpose_train.json and animalpose_val.json

Images for validation are drawn at random, the same ones in each run. MMPose's files were made
from older annotations and have another split, so that results are not comparable.
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
    add('root', type=Path, help='folder of the release')
    add('--out', type=Path, help='folder of the folder annotations [ROOT]')
    add('--annotations', default='keypoints.json', help='file of the release [%(default)s]')
    add('--images', default='images', help='folder of the images in ROOT [%(default)s]')
    add('--val-fraction', type=float, default=0.2, help='share of the images for validation [0.2]')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.datasets.annotations.reader import read_json, write_annotations
from kapao_mm.datasets.annotations.subset import split_images
from kapao_mm.datasets.formats.animalpose import convert_release
from kapao_mm.datasets.formats.coco import describe

CONFIG = 'kapao_s_animalpose'


def main() -> None:
    """Converts the release, and prints what was converted and left out."""
    args = parse_args()
    path, out = args.root / args.annotations, (args.out or args.root) / 'annotations'
    content, counts = convert_release(read_json(path, 'file'), path, args.root, args.images)
    print(f'{path}: {describe(counts)}')
    for name, part in zip(('train', 'val'), split_images(content, args.val_fraction), strict=True):
        target = out / f'animalpose_{name}.json'
        write_annotations(target, part)
        print(f'{target}: {len(part["images"])} images, {len(part["annotations"])} animals')
    options = [f'data_root={args.root}']
    if args.out:
        files = ((name, out / f'animalpose_{name}.json') for name in ('train', 'val'))
        options += [f'{name}_ann={file.absolute()}' for name, file in files]
    print(f'Next: kapao train {CONFIG} --cfg-options {" ".join(options)}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
