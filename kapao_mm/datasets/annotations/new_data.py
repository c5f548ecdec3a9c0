# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads the annotations of a new dataset, and finds the place of its files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kapao_mm.errors import InputError

from .box_categories import keep_categories
from .checks import LISTS, annotation_faults, category_faults, empty_faults, image_faults
from .image_sizes import CHECK, size_fault
from .reader import raise_faults, read_annotations
from .subset import split_images


class NewData(NamedTuple):
    """The annotations and files of a new dataset.

    Attributes:
        train: Annotations for training.
        val: Annotations for validation.
        paths: Paths by the names of configs: train_ann, train_img, val_ann, val_img.
        are_parts: Whether ``train`` and ``val`` are parts of the files of ``paths``, which must be
            written, see :func:`part_files`.
    """

    train: dict
    val: dict
    paths: dict[str, Path]
    are_parts: bool


def read_new_annotations(
    path: Path, images: Path | None = None, categories: Sequence[str] = ()
) -> dict:
    """Reads an annotation file, and makes the checks that need no metainfo.

    Args:
        path: The annotation file.
        images: Folder of its images, by default that of the file.
        categories: Names of the categories to keep; by default all.

    Raises:
        InputError: If the file cannot be read or has errors, it does not have a category, or it is
            an export of Label Studio with boxes and keypoints apart and no categories are chosen.
    """
    content = read_annotations(path, LISTS, say=print, images=images or path.parent)
    faults = empty_faults(content, ['images', 'categories']) or [
        *category_faults(content['categories']),
        *image_faults(content['images']),
        *annotation_faults(content),
    ]
    raise_faults(path, faults)
    if not categories and is_split_by_label_studio(content):
        raise InputError(
            f"{path} is Label Studio's COCO export, which has the box and the keypoints of an "
            'object apart: join them with kapao label-studio-to-coco, or choose with --category'
        )
    names = [entry['name'] for entry in content['categories']]
    if unknown := [name for name in categories if name not in names]:
        raise InputError(f'{path} has no category {", ".join(unknown)}; it has {", ".join(names)}')
    return keep_categories(content, categories) if categories else content


def is_split_by_label_studio(content: dict) -> bool:
    """Returns whether Label Studio wrote a file with boxes and keypoints in separate categories."""
    info = content.get('info')
    contributor = info.get('contributor') if isinstance(info, dict) else None
    kinds = {bool(category.get('keypoints')) for category in content['categories']}
    return contributor == 'Label Studio' and len(kinds) == 2


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
    train, are_parts = read_new_annotations(train_ann, train_img, categories), bool(categories)
    if val_ann:
        val = read_new_annotations(val_ann, val_img or train_img, categories)
    else:
        whole, val_ann = train, train_ann
        train, val = split_images(whole, share)
        is_split = train is not whole
        are_parts |= is_split
        print(_describe_split(train, val, is_split))
    paths = dict(
        train_ann=train_ann,
        train_img=train_img or train_ann.parent,
        val_ann=val_ann,
        val_img=val_img or train_img or val_ann.parent,
    )
    for content, part, flag in ((train, 'train', '--images'), (val, 'val', '--val-images')):
        _check_first_image(content, paths[f'{part}_ann'], paths[f'{part}_img'], flag)
    return NewData(train, val, paths, are_parts)


def part_files(data: NewData, folder: Path) -> dict[str, Path]:
    """Returns where parts of files go, by the names of configs; {} if whole files are used.

    Args:
        data: The new dataset.
        folder: Folder of the config. Nothing is written beside the data.
    """
    parts = ('train', 'val') if data.are_parts else ()
    stems = {part: data.paths[f'{part}_ann'].stem for part in parts}
    return {f'{part}_ann': folder / f'{stem}_{part}.json' for part, stem in stems.items()}


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


def _describe_split(train: dict, val: dict, is_split: bool) -> str:
    counts = [len(part['images']) for part in (train, val)]
    if is_split:
        return f'split at random, images: {counts[0]} for training, {counts[1]} for validation'
    return (
        f'too few images to split ({counts[0]}): validation is the training set, so its results '
        'say nothing about new images; give --val, or label more images'
    )


def _check_first_image(content: dict, ann_file: Path, folder: Path, flag: str) -> None:
    """Checks that the first image of a file exists, and warns if it has another size."""
    for image in content['images'][:1]:
        path = folder / image['file_name']
        if not os.path.isfile(path):  # Path.is_file may raise
            name, folder = image['file_name'], folder.absolute()
            raise InputError(f'image {name} is not in {folder}: set {flag}')
        if fault := size_fault(image, path):
            print(
                f'annotation file {ann_file.absolute()}, image {image["id"]}: {fault}, so {CHECK}'
            )
