# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the annotations of a new dataset, and finds the place of its files."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from kapao_mm.errors import InputError

from .checks import annotation_faults, category_faults, empty_faults, image_faults
from .reader import raise_faults, read_annotations
from .subset import split_images

LISTS = ('images', 'annotations', 'categories')


class NewData(NamedTuple):
    """The annotations and files of a new dataset.

    Attributes:
        train: COCO-format annotations for training.
        val: COCO-format annotations for validation.
        paths: Paths by the names of configs: train_ann, train_img, val_ann, val_img.
        new_files: Texts of the annotation files that must be written, by path.
    """

    train: dict[str, Any]
    val: dict[str, Any]
    paths: dict[str, Path]
    new_files: dict[Path, str]


def read_new_annotations(path: Path) -> dict[str, Any]:
    """Reads a COCO-format annotation file, and makes the checks that need no metainfo.

    Raises:
        InputError: If the file cannot be read or has errors.
    """
    content = read_annotations(path, LISTS, say=print)
    faults = empty_faults(content, ['categories']) or [
        *category_faults(content['categories']),
        *image_faults(content['images']),
        *annotation_faults(content),
    ]
    raise_faults(path, faults)
    return content


def find_data(
    train_ann: Path,
    val_ann: Path | None,
    train_img: Path | None,
    val_img: Path | None,
    val_fraction: float,
) -> NewData:
    """Reads the annotations of a dataset, and splits them if there are none for validation.

    Args:
        train_ann: Annotation file for training.
        val_ann: Annotation file for validation.
        train_img: Image folder; by default the folder of the annotation file.
        val_img: Image folder for validation; by default ``train_img`` if that is given, otherwise
            the folder of ``val_ann``.
        val_fraction: Share of the images for validation if there is no ``val_ann``.

    Raises:
        InputError: If a file is missing or invalid, or its first image is missing.
    """
    train, new_files = read_new_annotations(train_ann), {}
    if val_ann:
        val = read_new_annotations(val_ann)
        annotations = train_ann, val_ann
    else:
        train, val = split_images(train, val_fraction)
        annotations = tuple(
            train_ann.with_stem(f'{train_ann.stem}_{part}') for part in ('train', 'val')
        )
        new_files = dict(zip(annotations, map(json.dumps, (train, val)), strict=True))
    paths = dict(
        train_ann=annotations[0],
        train_img=train_img or annotations[0].parent,
        val_ann=annotations[1],
        val_img=val_img or train_img or annotations[1].parent,
    )
    _check_first_image(train, paths['train_img'], '--images')
    _check_first_image(val, paths['val_img'], '--val-images')
    return NewData(train, val, paths, new_files)


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


def _check_first_image(content: dict[str, Any], folder: Path, flag: str) -> None:
    for image in content['images'][:1]:
        if not os.path.isfile(folder / image['file_name']):  # Path.is_file may raise
            raise InputError(
                f'image {image["file_name"]} is not in {folder.absolute()}: give its folder with '
                f'{flag}'
            )
