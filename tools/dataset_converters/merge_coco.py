# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Merges COCO-format annotation files, with the same or different categories, into one.

The merged file is for training and testing one model on all of them. Ids are renumbered. Categories
with the same name are merged, and must have the same keypoints. In each image, LVIS's field
``not_exhaustive_category_ids`` lists the categories that were not annotated in it; evaluation
ignores these categories in this image.
"""

import argparse
from itertools import count
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path, help='the data root; all other paths are relative to it')
    parser.add_argument('out', type=Path, help='where the merged annotation file goes')
    parser.add_argument(
        '--add',
        nargs=2,
        action='append',
        required=True,
        metavar=('FILE', 'IMAGES'),
        help='an annotation file and the folder that its file names start from; once for each',
    )
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.datasets.annotations.checks import (
    Finding,
    category_faults,
    find_entries,
    found_only,
    id_faults,
    image_faults,
)
from kapao_mm.datasets.annotations.reader import raise_faults, read_annotations, write_annotations

LISTS = ('images', 'annotations', 'categories')


def merge(sources: list[tuple[str, str, dict]]) -> dict[str, Any]:
    """Merges the content of annotation files.

    Args:
        sources: Name, image folder and content of each file.

    Returns:
        The merged content.

    Raises:
        InputError: If a category has different keypoints in two files.
    """
    categories: dict[str, dict] = {}
    for name, _, content in sources:
        for category in content['categories']:
            merged = categories.setdefault(
                category['name'], {**category, 'id': len(categories) + 1}
            )
            if merged.get('keypoints') != category.get('keypoints'):
                raise InputError(
                    f'{name}: category {category["name"]!r} has other keypoints than in a file '
                    'before it; rename one of them'
                )
    images, annotations = [], []
    image_ids, annotation_ids = count(1), count(1)
    for _, folder, content in sources:
        category_ids = {c['id']: categories[c['name']]['id'] for c in content['categories']}
        others = {c['id'] for c in categories.values()} - set(category_ids.values())
        new_ids = {}
        for image in content['images']:
            new_ids[image['id']] = next(image_ids)
            unlabelled = others | {
                category_ids[i] for i in image.get('not_exhaustive_category_ids', [])
            }
            images.append(
                {
                    **image,
                    'id': new_ids[image['id']],
                    'file_name': str(Path(folder) / image['file_name']),
                    'not_exhaustive_category_ids': sorted(unlabelled),
                }
            )
        for annotation in content['annotations']:
            ids = dict(
                image_id=new_ids[annotation['image_id']],
                category_id=category_ids[annotation['category_id']],
            )
            annotations.append({**annotation, 'id': next(annotation_ids), **ids})
    return dict(images=images, annotations=annotations, categories=list(categories.values()))


def mixed_up(content: dict[str, Any]) -> list[Finding]:
    """Finds errors that would mix up a merged file: wrong ids, names or references."""
    images, annotations, categories = (content[key] for key in LISTS)
    known = dict(
        image_id={image.get('id') for image in images if isinstance(image.get('id'), int)},
        category_id={c.get('id') for c in categories if isinstance(c.get('id'), int)},
    )

    def is_known(value: Any, key: str) -> bool:
        return type(value) is int and value in known[key]

    def are_known(values: Any) -> bool:
        return isinstance(values, list) and all(is_known(v, 'category_id') for v in values)

    return found_only(
        [
            *category_faults(categories),
            *image_faults(images),
            *id_faults('annotations', annotations),
            *(
                find_entries(
                    'annotations',
                    annotations,
                    f'annotations whose {key!r} the file does not list',
                    'list it, or take them out; kapao check-dataset lists all',
                    lambda entry, key=key: not is_known(entry.get(key), key),
                )
                for key in known
            ),
            find_entries(
                'images',
                images,
                "images whose 'not_exhaustive_category_ids' are not ids of the file's categories",
                'correct them',
                lambda image: not are_known(image.get('not_exhaustive_category_ids', [])),
            ),
        ]
    )


def main() -> None:
    """Merges the files, and prints what was written."""
    args = parse_args()
    sources = []
    for file, folder in args.add:
        content = read_annotations(args.root / file, LISTS, say=print)
        if not (args.root / folder).is_dir():
            raise InputError(f'image folder {(args.root / folder).absolute()} does not exist')
        raise_faults(args.root / file, mixed_up(content))
        sources.append((str(args.root / file), folder, content))
    out = args.root / args.out
    if out.resolve() in [(args.root / file).resolve() for file, _ in args.add]:
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
