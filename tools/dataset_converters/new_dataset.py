# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes a metainfo file and a training config for a new dataset from its COCO keypoint JSON."""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error

# Geometric mean of COCO's smallest (0.025, eyes) and largest sigma (0.107, hips). Sigmas are the
# tolerances of OKS. With made-up ones the AP cannot be compared with that of other datasets.
SIGMA = 0.05


def positive(text: str) -> float:
    """Converts a text to a number above 0; a type for argparse."""
    if not (number := float(text)) > 0:
        raise ValueError(text)
    return number


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('annotation', type=Path, help='COCO keypoint JSON of the training images')
    add('--name', help='name of the dataset [folder of the data]')
    add('--images', type=Path, help='folder that file_name is relative to [folder of the JSON]')
    add('--val', type=Path, help='COCO keypoint JSON of the validation images')
    add('--val-images', type=Path, help='their folder [as --images]')
    add(
        '--val-fraction',
        type=float,
        default=0.1,
        help='without --val: share of the images for validation, drawn at random (give --val if '
        'images are alike, such as frames of a video) [0.1]',
    )
    add(
        '--category',
        nargs='+',
        default=[],
        metavar='NAME',
        help='categories to use; annotations of others are left out [all]',
    )
    add('--size', choices='nsml', default='n', help='size of the model [n]')
    add(
        '--schedule',
        choices=['short', 'published'],
        default='short',
        help='minutes to hours from scratch, or 500 epochs as in the paper [short]',
    )
    sigmas = parser.add_mutually_exclusive_group()
    sigmas.add_argument(
        '--sigma', type=positive, default=SIGMA, help=f'sigma of every keypoint [{SIGMA}]'
    )
    sigmas.add_argument(
        '--second',
        type=Path,
        help='JSON of the same objects (by id) by other annotators, to estimate sigmas from',
    )
    add('--no-skeleton', action='store_true', help='draw no links')
    add('--out', type=Path, help='folder of the written files [configs/NAME]')
    add('--force', action='store_true', help='replace existing files')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np

from kapao_mm.analysis.anchors import TARGET_RECALL, measure_fit
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations import new_config, new_data, new_metainfo
from kapao_mm.datasets.annotations.checks import categories_by_id, fatal_faults
from kapao_mm.datasets.annotations.instances import Instances, box_sides, gather_instances
from kapao_mm.datasets.annotations.issues import tell
from kapao_mm.datasets.annotations.keypoint_names import (
    find_order,
    order_keypoints,
    reorder_annotations,
)
from kapao_mm.datasets.annotations.object_sizes import choose_fusion_distance, find_small_objects
from kapao_mm.datasets.annotations.reader import raise_faults
from kapao_mm.datasets.annotations.sigmas import estimate_sigmas
from kapao_mm.datasets.metainfo import keypoint_category_ids
from kapao_mm.evaluation.label_checks import label_faults
from kapao_mm.utils.config import load_config


def find_categories(
    data: new_data.NewData, args: argparse.Namespace, name: str
) -> list[new_metainfo.Category]:
    """Returns the categories of the model, and checks those of the validation data."""
    if args.no_skeleton:
        for entry in (*data.train['categories'], *data.val['categories']):
            entry['skeleton'] = []
    found = new_metainfo.find_categories(data.train, str(args.annotation))
    new_metainfo.find_categories(data.val, str(data.paths['val_ann']))
    categories = new_metainfo.model_categories(found, name)
    if len(found) > len(categories):
        print(f'{len(found)} categories with the same keypoints: one category of the model')
    return categories


def find_sigmas(category: new_metainfo.Category, args: argparse.Namespace) -> list[float]:
    """Returns the sigmas (K,) given by the flags, and prints them."""
    if not category.keypoints:
        return []
    if not args.second:
        print(f'  sigmas: {args.sigma:g}')
        return [args.sigma] * len(category.keypoints)
    second = new_data.read_new_annotations(args.second)
    orders = {
        entry['id']: find_order(entry.get('keypoints') or (), category.keypoints)
        for entry in second['categories']
    }
    changes = {number: order for number, order in orders.items() if order != sorted(order or ())}
    tell(args.second, reorder_annotations(second['annotations'], changes), print)
    sigmas, counts, objects = estimate_sigmas(
        category, second['annotations'], str(args.second.absolute())
    )
    print(f'  sigmas of {objects} objects annotated twice (and how often the keypoint was):')
    for keypoint, sigma, count in zip(category.keypoints, sigmas, counts, strict=True):
        print(f'    {keypoint} {sigma:.4f} ({count})')
    return sigmas.tolist()


def check_labels(data: new_data.NewData, metainfo: dict) -> bool:
    """Returns whether evaluation can use the areas of all validation objects.

    Raises:
        InputError: If annotations cannot be used for training or evaluation.
    """
    raise_faults(data.paths['train_ann'], fatal_faults(data.train, metainfo))
    raise_faults(data.paths['val_ann'], fatal_faults(data.val, metainfo, test_mode=True))
    known = categories_by_id(data.val, metainfo)
    tell(data.paths['val_ann'], order_keypoints(data.val, metainfo, known), print)
    ids = keypoint_category_ids(metainfo | dict(CLASSES=data.val['categories']))
    posed = [a for a in data.val['annotations'] if a['category_id'] in ids]
    lacking = sum(not annotation.get('area') for annotation in posed)
    if lacking:
        print(
            f'{lacking} of {len(posed)} validation objects have no area: '
            'evaluation uses 0.53 of the boxes (use_area=False)'
        )
    raise_faults(data.paths['val_ann'], label_faults(data.val, metainfo, use_area=not lacking))
    return not lacking


def check_sizes(config: new_config.NewConfig, metainfos: list[dict], instances: Instances) -> None:
    """Prints the objects that are too small to be learned, and the recall of the anchors."""
    with TemporaryDirectory() as folder:  # a failure leaves no files behind
        trial = config._replace(folder=Path(folder).resolve())
        new_config.write_files(new_config.texts(trial, metainfos), force=False)
        cfg = load_config(trial.path)
    head = cfg.model.head
    for issue in find_small_objects(instances, cfg.input_size, head):
        print(issue.counted())
    poses = box_sides(instances, cfg.input_size)
    if not len(poses):
        print('anchors: no box has area inside its image, so there is nothing to learn')
        return
    keypoint_objects = np.unique(head.keypoint_size)[:, None].repeat(2, 1) * cfg.input_size
    recalls = [
        measure_fit(sides, np.array(head.anchors, float), head.assigner.max_ratio).recall
        for sides in (poses, keypoint_objects)
    ]
    print(
        f'anchors: best possible recall {recalls[0]:.3f} of pose objects, {recalls[1]:.3f} of '
        'keypoint objects'
    )
    if min(recalls) < TARGET_RECALL:
        print(f'  low: find better ones with kapao anchors {config.path}')


def main() -> None:
    """Reads the annotations, writes metainfo and config, and prints the next commands."""
    args = parse_args()
    data = new_data.find_data(
        args.annotation,
        args.val,
        args.images,
        args.val_images,
        args.val_fraction,
        args.category,
    )
    paths = new_data.locate(data.paths)
    name = args.name or new_config.file_name(Path(paths['data_root']).absolute().name)
    if not name or name != new_config.file_name(name):
        raise InputError(f'--name {name!r}: use letters, digits, _ and -')

    categories = find_categories(data, args, name)
    metainfos = []
    for category in categories:
        print(new_metainfo.describe(category))
        sigmas = find_sigmas(category, args)
        metainfos.append(new_metainfo.make_metainfo(category, sigmas) if sigmas else {})
    metainfo = read_metainfo(new_metainfo.join_metainfos(name, categories, metainfos))
    use_area = check_labels(data, metainfo)
    instances = gather_instances(data.train, metainfo)
    fusion_distance = choose_fusion_distance(instances)
    print(f'fusion_distance: {fusion_distance} px, by the size of the objects')

    folder = args.out or Path('configs', name)
    parts = new_data.part_files(data, folder)
    config = new_config.NewConfig(
        name=name,
        folder=folder,
        size=args.size,
        short=args.schedule == 'short',
        data=paths,
        parts=parts,
        categories=categories,
        use_area=use_area,
        fusion_distance=fusion_distance,
    )
    check_sizes(config, metainfos, instances)
    contents = zip(parts.values(), (data.train, data.val), strict=False)
    files = {path: json.dumps(content) for path, content in contents}
    files |= new_config.texts(config, metainfos)
    new_config.write_files(files, args.force)
    for path in files:
        print(f'wrote {path}')
    print('Next:')
    for command in ('check-dataset', 'browse-dataset', 'train'):
        print(f'  kapao {command} {config.path}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
