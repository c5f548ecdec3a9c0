# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the annotations of a new dataset, and finds the place of its files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kapao_mm.errors import InputError

from .box_categories import keep_categories
from .checks import LISTS, annotation_faults, category_faults, empty_faults, image_faults
from .reader import raise_faults, read_annotations
from .subset import split_images


class NewData(NamedTuple):
    """The annotations and files of a new dataset.

    Attributes:
        train: Annotations for training.
        val: Annotations for validation.
        paths: Paths by the names of configs: train_ann, train_img, val_ann, val_img.
        new_files: Texts of the annotation files that must be written, by path.
    """

    train: dict
    val: dict
    paths: dict[str, Path]
    new_files: dict[Path, str]


def read_new_annotations(path: Path, categories: Sequence[str] = ()) -> dict:
    """Reads an annotation file, and makes the checks that need no metainfo.

    Args:
        path: The file.
        categories: Names of the categories to keep; by default all.

    Raises:
        InputError: If the file cannot be read or has errors, or it does not have a category.
    """
    content = read_annotations(path, LISTS, say=print)
    faults = empty_faults(content, ['categories']) or [
        *category_faults(content['categories']),
        *image_faults(content['images']),
        *annotation_faults(content),
    ]
    raise_faults(path, faults)
    names = [entry['name'] for entry in content['categories']]
    if unknown := [name for name in categories if name not in names]:
        raise InputError(f'{path} has no category {", ".join(unknown)}; it has {", ".join(names)}')
    return keep_categories(content, categories) if categories else content


def find_data(
    train_ann: Path,
    val_ann: Path | None,
    train_img: Path | None,
    val_img: Path | None,
    share: float,
    categories: Sequence[str] = (),
) -> NewData:
    """Reads the annotations of a dataset, and splits them if there are none for validation.

    Args:
        train_ann: Annotation file for training.
        val_ann: Annotation file for validation.
        train_img: Image folder; by default that of ``train_ann``.
        val_img: Image folder for validation; by default ``train_img``, or that of ``val_ann``.
        share: Share of the images for validation if there is no ``val_ann``.
        categories: Names of the categories to keep; by default all. New files have these only.

    Raises:
        InputError: If a file is missing or invalid, or its first image is missing.
    """
    train, new_files = read_new_annotations(train_ann, categories), {}
    if val_ann:
        val = read_new_annotations(val_ann, categories)
    else:
        train, val = split_images(train, share)
    if categories or not val_ann:  # written files have all and only what is used
        val_ann = (val_ann or train_ann).with_stem(f'{(val_ann or train_ann).stem}_val')
        train_ann = train_ann.with_stem(f'{train_ann.stem}_train')
        new_files = {train_ann: json.dumps(train), val_ann: json.dumps(val)}
    paths = dict(
        train_ann=train_ann,
        train_img=train_img or train_ann.parent,
        val_ann=val_ann,
        val_img=val_img or train_img or val_ann.parent,
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


def _check_first_image(content: dict, folder: Path, flag: str) -> None:
    for image in content['images'][:1]:
        name = image['file_name']
        if not os.path.isfile(folder / name):  # Path.is_file may raise
            raise InputError(f'image {name} is not in {folder.absolute()}: set {flag}')
