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
    parser.add_argument('target', type=Path, help='where the smaller one goes')
    parser.add_argument('--images', type=positive, required=True, help='how many images to take')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.datasets.annotations.checks import find_entries, found_only, has_id, id_faults
from kapao_mm.datasets.annotations.reader import raise_faults, read_annotations, write_annotations


def take_images(annotations: dict, count: int) -> dict:
    """Returns COCO-format annotations reduced to the first ``count`` images.

    Other keys, such as the categories, are kept.

    Raises:
        InputError: If there are fewer images.
    """
    images = annotations['images'][:count]
    if len(images) < count:
        raise InputError(f'{count} images were asked for, the file has {len(images)}')
    ids = {image['id'] for image in images}
    kept = [a for a in annotations['annotations'] if a['image_id'] in ids]
    return annotations | dict(images=images, annotations=kept)


def main() -> None:
    """Writes the smaller annotation file, and prints what was written."""
    args = parse_args()
    if args.target.resolve() == args.source.resolve():
        raise InputError(f'{args.target} is the file to take from; give another name')
    content = read_annotations(args.source, ('images', 'annotations'), say=print)
    ids = {image['id'] for image in content['images'] if has_id(image)}
    homeless = find_entries(
        'annotations',
        content['annotations'],
        'annotations of images that the file does not list',
        'list the images, or take the annotations out',
        lambda entry: not (has_id(entry, 'image_id') and entry['image_id'] in ids),
    )
    raise_faults(args.source, found_only([*id_faults('images', content['images']), homeless]))
    subset = take_images(content, args.images)
    write_annotations(args.target, subset)
    print(f'{args.target}: {args.images} images, {len(subset["annotations"])} annotations')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
