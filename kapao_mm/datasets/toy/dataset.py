# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes scenes of drawn people and their annotations in COCO's layout."""

import json
from pathlib import Path

import cv2
import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path

from .figure import KEYPOINTS
from .scene import draw_scene, find_level

VERSION = 1  # raise it when the same seed gives other images
JPEG_QUALITY = 95
SPLITS = ('train', 'val')
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
PERSON = dict(id=1, name='person', supercategory='person', keypoints=KEYPOINTS, skeleton=SKELETON)


def make_toy_dataset(
    root: str | Path,
    level: str = 'easy',
    num_train: int = 300,
    num_val: int = 60,
    image_size: tuple[int, int] = (640, 480),
    seed: int = 0,
) -> Path:
    """Writes a toy dataset in COCO's layout, unless ``root`` already contains the same one.

    The annotations are written last, so that an interrupted run leaves no incomplete dataset. An
    image depends on its level, size, seed, split and index, but not on the number of images.

    Args:
        root: Folder for ``annotations/person_keypoints_{train,val}.json``, ``train2017/`` and
            ``val2017/``.
        level: 'easy' or 'crowd', see :func:`draw_scene`.
        num_train: Number of training images.
        num_val: Number of validation images.
        image_size: Image size (w, h) px.
        seed: Seed of the random generator, at least 0.

    Returns:
        ``root`` as a Path.

    Raises:
        InputError: If an argument is out of range, ``root`` contains another dataset, or a file
            cannot be written.
    """
    find_level(level)
    if min(num_train, num_val) < 1 or min(image_size) < 64 or seed < 0:
        raise InputError(
            'a toy dataset needs at least 1 image per split, 64 px per side and a seed of 0; got '
            f'{num_train} and {num_val} images of {image_size[0]} x {image_size[1]} px, seed {seed}'
        )
    root = Path(root)
    common = dict(toy_version=VERSION, level=level, seed=seed, image_size=list(image_size))
    infos = [common | dict(images=number) for number in (num_train, num_val)]
    files = [root / 'annotations' / f'person_keypoints_{split}.json' for split in SPLITS]
    folders = [root / f'{split}2017' for split in SPLITS]
    summary = f'{num_train} + {num_val} toy images ({level}, seed {seed})'
    if all(list(map(_is_written, files, folders, infos))):  # checks both
        print(f'{root} already contains {summary}')
        return root
    for file in files:
        file.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
    contents = list(map(_write_images, range(len(SPLITS)), folders, infos))
    for file, content in zip(files, contents, strict=True):
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(content))
    print(f'wrote {summary} to {root}')
    return root


def _is_written(file: Path, folder: Path, info: dict) -> bool:
    """Returns whether the split described by ``info`` exists.

    Raises:
        InputError: If the annotation file belongs to another dataset.
    """
    if not file.exists():
        return False
    content = json.loads(file.read_text())
    if 'toy_version' not in content.get('info', {}):
        raise InputError(f'{file} is not a toy dataset and is not replaced: give another folder')
    images = (folder / image['file_name'] for image in content['images'])
    return content['info'] == info and all(image.is_file() for image in images)


def _write_images(number: int, folder: Path, info: dict) -> dict:
    """Writes the images of the split described by ``info``, and returns its COCO annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    size = tuple(info['image_size'])
    images, annotations = [], []
    for index in range(info['images']):
        rng = np.random.default_rng((info['seed'], number, index))
        image, people = draw_scene(rng, info['level'], size)
        image_id = number * 1_000_000 + index + 1
        path = folder / f'toy_{image_id:07d}.jpg'
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise InputError(f'cannot write {path}: check the disk and its permissions')
        images.append(dict(id=image_id, file_name=path.name, width=size[0], height=size[1]))
        annotations += [
            dict(id=image_id * 100 + rank, image_id=image_id, **person)
            for rank, person in enumerate(people)
        ]
    return dict(info=info, licenses=[], images=images, annotations=annotations, categories=[PERSON])
