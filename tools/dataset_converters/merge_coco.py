# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Merges COCO-format annotation files, of other categories or the same, into one.

One model then learns and tests them together. Ids are counted anew. Categories of one name are one,
and must have the same keypoints. An image says which categories nobody looked for in it, in LVIS's
field ``not_exhaustive_category_ids``: evaluation leaves them out there.
"""

import argparse
import json
from itertools import count
from pathlib import Path
from typing import Any

from kapao_mm.datasets.annotation_checks import id_faults, image_faults, read_annotations
from kapao_mm.errors import InputError, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """The command line."""
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


def merge(sources: list[tuple[str, str, dict]]) -> dict[str, Any]:
    """Merges annotations.

    Args:
        sources: the name of each file, the folder of its images, and its content.

    Returns:
        The merged content.

    Raises:
        InputError: a category has other keypoints in another file; a category, or an image, that an
            annotation names is missing.
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
    for name, folder, content in sources:
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
            try:
                ids = dict(
                    image_id=new_ids[annotation['image_id']],
                    category_id=category_ids[annotation['category_id']],
                )
            except KeyError as error:
                raise InputError(
                    f'{name}: annotation {annotation.get("id")} names the image or category '
                    f'{error}, which the file does not have; tools/misc/check_dataset.py lists all'
                ) from error
            annotations.append({**annotation, 'id': next(annotation_ids), **ids})
    return dict(images=images, annotations=annotations, categories=list(categories.values()))


def main() -> None:
    """Reads, merges, writes, and says what was written."""
    args = parse_args()
    sources = [
        (str(args.root / file), folder, read_annotations(args.root / file))
        for file, folder in args.add
    ]
    for (file, _, content), (_, folder) in zip(sources, args.add, strict=True):
        if not (args.root / folder).is_dir():
            raise InputError(f'image folder {(args.root / folder).absolute()} does not exist')
        lacks = [key for key in ('images', 'annotations', 'categories') if key not in content]
        if lacks:
            raise InputError(f'{file} has no {" and no ".join(lacks)}: give a COCO-format file')
        faults = [
            *image_faults(content['images']),
            *id_faults('annotations', content['annotations']),
            *id_faults('categories', content['categories']),
        ]
        for fault in faults:
            if fault.ids:
                raise InputError(f'{file}: {fault}')
    out = args.root / args.out
    if out.resolve() in [(args.root / file).resolve() for file, _ in args.add]:
        raise InputError(f'{out} is one of the files to merge; give another name')
    merged = merge(sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(merged))
    print(f'{out}: {len(merged["images"])} images, {len(merged["annotations"])} annotations')
    for category in merged['categories']:
        number = sum(a['category_id'] == category['id'] for a in merged['annotations'])
        print(f'  {category["id"]} {category["name"]}: {number} annotations')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
