# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes the first images of a COCO-format annotation file, with their annotations."""

import argparse
import json
from pathlib import Path

from kapao_mm.errors import InputError, exit_on_input_error


def take_images(annotations: dict, count: int) -> dict:
    """The first ``count`` images of a COCO-format dict, their annotations, and all the rest.

    Raises:
        InputError: there are fewer images.
    """
    images = annotations['images'][:count]
    if len(images) < count:
        raise InputError(f'{count} images were asked for, the file has {len(images)}')
    ids = {image['id'] for image in images}
    kept = [a for a in annotations['annotations'] if a['image_id'] in ids]
    return annotations | dict(images=images, annotations=kept)


def main() -> None:
    """Reads, takes, writes, and says what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', type=Path, help='annotation file')
    parser.add_argument('target', type=Path, help='where the smaller one goes')
    parser.add_argument('--images', type=int, required=True, help='how many images to take')
    args = parser.parse_args()
    if not args.source.is_file():
        raise InputError(f'annotation file {args.source.absolute()} does not exist')
    subset = take_images(json.loads(args.source.read_text()), args.images)
    args.target.parent.mkdir(parents=True, exist_ok=True)
    args.target.write_text(json.dumps(subset))
    print(f'{args.target}: {args.images} images, {len(subset["annotations"])} annotations')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
