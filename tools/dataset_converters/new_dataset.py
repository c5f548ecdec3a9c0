# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes a metainfo file and a training config for a new dataset from its COCO keypoint JSON."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from keyword import iskeyword
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path
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
    parser.add_argument('annotation', type=Path, help='COCO keypoint JSON of the training images')
    parser.add_argument('--name', help="of the dataset [its data's folder]")
    parser.add_argument(
        '--images', type=Path, help="what the JSON's file_name is relative to [the JSON's folder]"
    )
    parser.add_argument('--val', type=Path, help='COCO keypoint JSON of the validation images')
    parser.add_argument('--val-images', type=Path, help='their folder [as --images]')
    parser.add_argument(
        '--val-fraction',
        type=float,
        default=0.1,
        help='without --val: validate on this part of the images, drawn at random (give --val '
        'where images come in series, such as frames of videos) [0.1]',
    )
    parser.add_argument('--size', choices='nsml', default='n', help='of the model [n]')
    parser.add_argument(
        '--schedule',
        choices=['short', 'published'],
        default='short',
        help='minutes to hours from scratch, or 500 epochs as in the paper [short]',
    )
    sigmas = parser.add_mutually_exclusive_group()
    sigmas.add_argument(
        '--sigma', type=positive, default=SIGMA, help=f'of every keypoint [{SIGMA}]'
    )
    sigmas.add_argument(
        '--second',
        type=Path,
        help='JSON of the same annotations (by id) by other annotators, to estimate sigmas from',
    )
    parser.add_argument('--no-skeleton', action='store_true', help='draw no links')
    parser.add_argument('--out', type=Path, help='folder of the written files [configs/NAME]')
    parser.add_argument('--force', action='store_true', help='replace files that are there')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np

from kapao_mm.analysis.anchors import TARGET_RECALL, measure_fit
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.annotations.checks import (
    annotation_faults,
    category_faults,
    fatal_faults,
    found_only,
    image_faults,
)
from kapao_mm.datasets.annotations.describe import (
    Category,
    find_categories,
    left_right_pairs,
    lone_sides,
    make_metainfo,
    sigmas_of_two,
)
from kapao_mm.datasets.annotations.object_sizes import choose_fusion_distance, find_small_objects
from kapao_mm.datasets.annotations.reader import raise_faults, read_annotations
from kapao_mm.datasets.annotations.review import Instances, box_sides, gather_instances
from kapao_mm.evaluation.label_checks import label_faults
from kapao_mm.utils.config import load_config

BASES = Path(__file__).resolve().parents[2] / 'configs/_base_'
WIDTH = 100  # maximum line length of the written files
PUBLISHED_BATCH = dict(n=32, s=32, m=18, l=12)  # on each of four GPUs, as in configs/kapao/
CONFIG = '''\
"""KAPAO-{size} on {name}. {about}"""

_base_ = {bases}

# Another place: --cfg-options data_root=/path (tools/ apply it to all that follows)
data_root = {data_root!r}
train_ann = {train_ann!r}
train_img = {train_img!r}
val_ann = {val_ann!r}
val_img = {val_img!r}
metainfo = {metainfo}
num_keypoints = {num_keypoints}
{schedule}

train_pipeline = [
    dict(type='CheckedLoadImage'),
{geometry}\
    dict(type='HSVGain', gains=(0.015, 0.7, 0.4)),
{flip}\
    dict(type='PackKAPAOInputs'),
]
val_pipeline = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=input_size, move_labels=False),
    dict(type='PackKAPAOInputs'),
]

place = dict(metainfo=metainfo, data_root=data_root)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers={workers},
    dataset=dict(
        ann_file=train_ann, data_prefix=dict(img=train_img), pipeline=train_pipeline, **place
    ),
)
val_dataloader = dict(
    num_workers={workers},
    dataset=dict(ann_file=val_ann, data_prefix=dict(img=val_img), pipeline=val_pipeline, **place),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='KAPAOMetric'{use_area})
test_evaluator = val_evaluator
{tta}'''
SHORT = """\
input_size = 384  # long side of the network input, px, a multiple of 64; larger sees smaller things
batch_size = 8

model = dict(
    head=dict(num_keypoints=num_keypoints, loss=dict(scale_gains=False)),
    test_cfg=dict(fusion_distance={fusion_distance}),  # px of the original image; 0: no fusion
)"""
PUBLISHED = """\
input_size = 1280  # long side of the network input, px, a multiple of 64
batch_size = {batch_size}  # on each of four GPUs

model = dict(
    head=dict(num_keypoints=num_keypoints),
    test_cfg=dict(fusion_distance={fusion_distance}),  # px of the original image; 0: no fusion
)"""
SHORT_GEOMETRY = """\
    dict(type='Letterbox', input_size=input_size, square=True),
    dict(type='RandomScaleTranslate', input_size=input_size, scale_range=(0.5, 1.5), max_shift=0.1),
"""
PUBLISHED_GEOMETRY = """\
    dict(
        type='MosaicScaleTranslate',
        input_size=input_size,
        scale_range=(0.1, 1.9),
        max_shift=0.1,
        pre_transform=[dict(type='CheckedLoadImage')],
    ),
"""
FLIP = """\
    dict(type='HorizontalFlip', prob=0.5),
"""
NO_FLIP = """\
    # No HorizontalFlip: without left/right pairs, all of them, a mirror image has wrong names.
    # Where it has the right ones, add dict(type='HorizontalFlip', prob=0.5),
"""
TTA_WITHOUT_FLIP = """
tta_model = dict(passes=[(0.8, False), (1.0, False), (1.2, False)])  # no flip here, either
"""


def read(path: Path) -> dict[str, Any]:
    """Reads a COCO-format annotation file, and makes the checks that need no metainfo.

    Raises:
        InputError: If the file cannot be read or has errors.
    """
    content = read_annotations(path, ('images', 'annotations', 'categories'), say=print)
    faults = [*category_faults(content['categories']), *image_faults(content['images'])]
    raise_faults(path, found_only([*faults, *annotation_faults(content)]))
    return content


def split(content: dict[str, Any], fraction: float) -> list[dict[str, Any]]:
    """Splits annotations into training and validation at random, reproducibly.

    Args:
        content: COCO-format annotations.
        fraction: Share of the images for validation.

    Returns:
        The content for training, and the content for validation.

    Raises:
        InputError: If one of the two would have no images.
    """
    images = content['images']
    count = round(fraction * len(images)) if 0 < fraction < 1 else 0
    if not 0 < count < len(images):
        raise InputError(
            f'--val-fraction {fraction:g} of {len(images)} images leaves none for training or for '
            'validation: change it, or give --val'
        )
    drawn = np.random.default_rng(0).permutation(len(images))[:count]
    ids = {images[i]['id'] for i in drawn}
    return [
        content
        | dict(
            images=[image for image in images if (image['id'] in ids) == val],
            annotations=[a for a in content['annotations'] if (a['image_id'] in ids) == val],
        )
        for val in (False, True)
    ]


def find_data(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Path], dict[Path, str]]:
    """Reads the annotations, and splits them if ``--val`` is not given.

    Returns:
        The content for 'train' and 'val', the paths of train_ann, train_img, val_ann and val_img,
        and the texts of new annotation files by path.

    Raises:
        InputError: If a file is missing or invalid, or its first image is missing.
    """
    content = dict(train=read(args.annotation))
    paths = dict(train_ann=args.annotation, val_ann=args.val)
    new_files = {}
    if args.val:
        content['val'] = read(args.val)
    else:
        divided = split(content['train'], args.val_fraction)
        content = dict(zip(('train', 'val'), divided, strict=True))
        for part, entries in content.items():
            path = args.annotation.with_stem(f'{args.annotation.stem}_{part}')
            paths[f'{part}_ann'] = path
            new_files[path] = json.dumps(entries)
    train_img = args.images or args.annotation.parent
    val_img = args.val_images or args.images or paths['val_ann'].parent
    paths |= dict(train_img=train_img, val_img=val_img)
    for part, flag in (('train', '--images'), ('val', '--val-images')):
        folder = paths[f'{part}_img']
        for image in content[part]['images'][:1]:
            if not os.path.isfile(folder / image['file_name']):  # Path.is_file may raise
                raise InputError(
                    f'image {image["file_name"]} is not in {folder.absolute()}: give its folder '
                    f'with {flag}'
                )
    return content, paths, new_files


def model_categories(found: Sequence[Category], name: str) -> list[Category]:
    """Returns the categories of the model.

    If all categories have the same keypoints, they are merged into one with the given name.
    """
    if len({tuple(category.keypoints) for category in found}) > 1:
        return list(found)
    links = dict.fromkeys(link for category in found for link in category.links)
    annotations = [a for category in found for a in category.annotations]
    return [found[0]._replace(name=name, links=list(links), annotations=annotations)]


def can_flip(category: Category) -> bool:
    """Returns whether images may be flipped.

    This needs left/right pairs, and no name with a side may be without its counterpart.
    """
    pairs = left_right_pairs(category.keypoints)
    return bool(pairs) and not lone_sides(category.keypoints, pairs)


def describe(category: Category) -> None:
    """Prints the keypoints, left/right pairs and skeleton of a category."""
    names = category.keypoints
    pairs = left_right_pairs(names)
    print(
        f'{category.name}: {len(category.annotations)} annotations, {len(names)} keypoints: '
        + ', '.join(names)
    )
    if not category.named:
        print('  the file has no names of keypoints: write better ones into the metainfo')
    paired = ', '.join(f'{names[a]} - {names[b]}' for a, b in pairs)
    print(f'  left/right pairs: {paired or "none"}')
    if lone := lone_sides(names, pairs):
        print(f'  without their other side: {", ".join(lone)}')
    print(f'  skeleton: {len(category.links)} links')
    if not can_flip(category):
        print('  no HorizontalFlip in training: without these pairs a mirror image has wrong names')


def find_sigmas(category: Category, args: argparse.Namespace) -> list[float]:
    """Returns the sigmas (K,) given by the flags, and prints them."""
    if args.second:
        return estimate_sigmas(category, args.second)
    print(f'  sigmas: {args.sigma:g}')
    return [args.sigma] * len(category.keypoints)


def estimate_sigmas(category: Category, path: Path) -> list[float]:
    """Estimates the sigmas of a category from a second annotation of its objects.

    Sigmas and the number of keypoints behind them are printed.

    Args:
        category: Category with the first annotations.
        path: File with the second annotations of the same ids.

    Raises:
        InputError: If the ids do not match, or no object has two different locations of a keypoint.
    """
    others = {a['id']: a for a in read(path)['annotations']}
    pairs = [(a, others[a['id']]) for a in category.annotations if a['id'] in others]
    for a, b in pairs:
        if (a['image_id'], len(a['keypoints'])) != (b['image_id'], len(b.get('keypoints', ()))):
            raise InputError(
                f'annotation {a["id"]} of {path.absolute()} has another image or number of '
                'keypoints than in the first file: use the same ids in both'
            )
    if not pairs:
        raise InputError(f'{path.absolute()} shares no annotation ids with the first file')
    sigmas, counts = sigmas_of_two(*zip(*pairs, strict=True))
    found = list(zip(category.keypoints, sigmas.tolist(), counts.tolist(), strict=True))
    if missing := [name for name, sigma, _ in found if not 0 < sigma < np.inf]:
        raise InputError(
            f'{path.absolute()}: no object has two different locations of {", ".join(missing)}, so '
            'there is nothing to estimate a sigma from'
        )
    print(f'  sigmas of {len(pairs)} objects annotated twice (and how often the keypoint was):')
    for name, sigma, count in found:
        print(f'    {name} {sigma:.4f} ({count})')
    return [round(sigma, 4) for _, sigma, _ in found]


def file_name(text: str) -> str:
    """Replaces characters that names of files and configs cannot have by underscores."""
    return re.sub(r'[^\w-]+', '_', text)


def literal(value: Any, indent: int = 0, before: int = 0) -> str:
    """Formats a value as Python source, in the style of ruff.

    Args:
        value: Value made of dicts, lists, tuples and anything with a repr.
        indent: Indentation of the line on which it starts.
        before: Number of characters before it on that line, including ``indent``.
    """
    if isinstance(value, list) and len(value) > 1 and set(map(repr, value)) == {repr(value[0])}:
        return f'[{value[0]!r}] * {len(value)}'
    if isinstance(value, dict):
        names = all(isinstance(k, str) and k.isidentifier() and not iskeyword(k) for k in value)
        brackets = ('dict(', ')') if names else '{}'
        items = [(f'{key}=' if names else f'{key!r}: ', value[key]) for key in value]
    elif isinstance(value, (list, tuple)):
        brackets = '[]' if isinstance(value, list) else '()'
        items = [('', item) for item in value]
    else:
        return repr(value)
    opening, closing = brackets
    inner = indent + 4
    lines = [f'{key}{literal(item, inner, inner + len(key))}' for key, item in items]
    line = f'{opening}{", ".join(lines)}{closing}'
    # A nested value is followed by a comma.
    if '\n' not in line and before + len(line) + bool(indent) <= WIDTH:
        return line
    body = ''.join(f'{" " * inner}{text},\n' for text in lines)
    return f'{opening}\n{body}{" " * indent}{closing}'


def has_areas(content: dict[str, Any]) -> bool:
    """Returns whether all objects have an area for OKS; prints a message if not."""
    lacking = [a['id'] for a in content['annotations'] if not a.get('area')]
    if lacking:
        print(
            f'{len(lacking)} of {len(content["annotations"])} validation objects have no area: '
            'evaluation takes 0.53 of the boxes (use_area=False)'
        )
    return not lacking


def metainfo_paths(categories: Sequence[Category], out: Path) -> dict[Path, Category]:
    """Returns the categories by the paths of their metainfo files.

    Raises:
        InputError: If two categories would share a file.
    """
    if len(categories) == 1:
        return {out / 'metainfo.py': categories[0]}
    paths = {out / f'metainfo_{file_name(c.name)}.py': c for c in categories}
    if len(paths) < len(categories):
        names = ', '.join(repr(category.name) for category in categories)
        raise InputError(f'categories {names} would share metainfo files: rename some')
    return paths


def locate(paths: dict[str, Path]) -> dict[str, str]:
    """Returns the common folder of all paths as ``data_root``, and each path relative to it.

    A path that is the folder itself becomes ''.
    """
    if any(path.is_absolute() for path in paths.values()):
        paths = {key: path.absolute() for key, path in paths.items()}
    folders = [path if key.endswith('img') else path.parent for key, path in paths.items()]
    root = os.path.commonpath(map(os.path.normpath, folders)) or '.'
    below = {key: os.path.relpath(path, root) for key, path in paths.items()}
    return dict(data_root=root) | {k: '' if path == '.' else path for k, path in below.items()}


def config_text(
    args: argparse.Namespace,
    metainfos: dict[Path, Category],
    data: dict[str, str],
    area: bool,
    fusion_distance: int,
) -> str:
    """Returns the text of the config file.

    Args:
        args: Parsed command line, with name and out.
        metainfos: Categories of the model by their metainfo files.
        data: Values of data_root, train_ann, train_img, val_ann, val_img.
        area: Whether all validation objects have an area.
        fusion_distance: Maximum distance of fusion, px of the original image.
    """
    short = args.schedule == 'short'
    names = (
        'default_runtime',
        f'models/kapao_{args.size}',
        'datasets/keypoint_loaders',
        f'schedules/kapao_{"short" if short else "500e"}',
    )
    bases = [os.path.relpath(BASES / f'{name}.py', args.out) for name in names]
    counts = [len(category.keypoints) for category in metainfos.values()]
    # MMEngine replaces fileDirname by the folder of the config, whatever the working directory.
    metainfo = {
        category.name: dict(from_file='{{ fileDirname }}/' + path.name)
        for path, category in metainfos.items()
    }
    if len(counts) > 1:
        metainfo = dict(dataset_name=args.name, categories=metainfo)
    else:
        ((metainfo,), (counts,)) = metainfo.values(), counts
    if short:
        schedule = SHORT.format(fusion_distance=fusion_distance)
    else:
        batch_size = PUBLISHED_BATCH[args.size]
        schedule = PUBLISHED.format(batch_size=batch_size, fusion_distance=fusion_distance)
    flips = all(map(can_flip, metainfos.values()))
    return CONFIG.format(
        size=args.size.upper(),
        name=args.name,
        about='The short schedule, from scratch.' if short else 'The published schedule.',
        bases=literal(bases, before=len('_base_ = ')),
        **data,
        metainfo=literal(metainfo, before=len('metainfo = ')),
        num_keypoints=counts,
        schedule=schedule,
        geometry=SHORT_GEOMETRY if short else PUBLISHED_GEOMETRY,
        flip=FLIP if flips else NO_FLIP,
        tta='' if flips else TTA_WITHOUT_FLIP,
        workers=2 if short else 8,
        use_area='' if area else ', use_area=False',
    )


def write(files: dict[Path, str], force: bool) -> None:
    """Writes all files or none.

    Raises:
        InputError: If a file exists already and ``force`` is not set, or a folder cannot be written
            to.
    """
    there = [str(path) for path in files if os.path.exists(path)]
    if there and not force:
        raise InputError(f'{", ".join(there)} exists already: --force replaces it')
    with ExitStack() as stack:
        for path, text in files.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f'{path.absolute()} cannot be written: {error}') from error
            stack.enter_context(atomic_path(path)).write_text(text, encoding='utf-8')
    for path in files:
        print(f'wrote {path}')


def check_sizes(config: Path, objects: Instances) -> None:
    """Prints the objects that are too small to be learned, and the recall of the anchors."""
    cfg = load_config(config)
    head = cfg.model.head
    for finding in find_small_objects(objects, cfg.input_size, head):
        print(f'{len(finding.ids)} {finding.what} ({finding.first_ids()}); {finding.remedy}')
    poses = box_sides(objects, cfg.input_size)
    points = np.unique(head.keypoint_size)[:, None].repeat(2, 1) * cfg.input_size
    if not len(poses):
        print('anchors: no box has area inside its image, so there is nothing to learn')
        return
    recalls = [
        measure_fit(boxes, np.array(head.anchors, float), head.assigner.max_ratio).recall
        for boxes in (poses, points)
    ]
    print(
        f'anchors: best possible recall {recalls[0]:.3f} of pose objects, {recalls[1]:.3f} of '
        'keypoint objects'
    )
    if min(recalls) < TARGET_RECALL:
        print(f'  low: find others with kapao anchors {config}')


def main() -> None:
    """Reads the annotations, writes metainfo and config, and prints the next commands."""
    args = parse_args()
    content, paths, files = find_data(args)
    data = locate(paths)
    args.name = args.name or file_name(Path(data['data_root']).absolute().name)
    if not args.name or args.name != file_name(args.name):
        raise InputError(f'--name {args.name!r}: use letters, digits, _ and -')
    args.out = args.out or Path('configs') / args.name

    if args.no_skeleton:
        for entry in (*content['train']['categories'], *content['val']['categories']):
            entry['skeleton'] = []
    found = find_categories(content['train'], str(args.annotation))
    find_categories(content['val'], str(paths['val_ann']))  # only checks the file
    categories = model_categories(found, args.name)
    if len(found) > len(categories):
        print(f'{len(found)} categories with the same keypoints: one category of the model')
    infos = {}
    for category in categories:
        describe(category)
        infos[category.name] = make_metainfo(category, find_sigmas(category, args))
    several = dict(dataset_name=args.name, categories=infos)
    metainfo = read_metainfo(several if len(infos) > 1 else infos[args.name])
    for part, entries in content.items():
        raise_faults(paths[f'{part}_ann'], fatal_faults(entries, metainfo, part == 'val'))
    area = has_areas(content['val'])
    raise_faults(paths['val_ann'], label_faults(content['val'], metainfo, area))
    objects = gather_instances(content['train'], metainfo)
    fusion_distance = choose_fusion_distance(objects)
    print(f'fusion_distance: {fusion_distance} px, by the size of the objects')

    metainfos = metainfo_paths(categories, args.out)
    config = args.out / f'kapao_{args.size}_{args.name}.py'
    for path, category in metainfos.items():
        text = literal(infos[category.name], before=len('dataset_info = '))
        files[path] = f'dataset_info = {text}\n'
    files[config] = config_text(args, metainfos, data, area, fusion_distance)
    write(files, args.force)
    check_sizes(config, objects)
    print(
        f'Next:\n  kapao check-dataset {config}\n'
        f'  kapao browse-dataset {config}\n'
        f'  kapao train {config}'
    )


if __name__ == '__main__':
    with exit_on_input_error():
        main()
