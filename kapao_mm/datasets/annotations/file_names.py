# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds images whose file names were written on another machine."""

import os.path as osp
import re
from collections import Counter
from collections.abc import Iterator

from .issues import AnnotationIssue, Rule, find_issues
from .values import is_name

DRIVE = re.compile('^[A-Za-z]:')


def find_files(images: list[dict], folder: str) -> list[AnnotationIssue]:
    """Corrects file names with backslashes and absolute paths of another machine, in place.

    Such a path is replaced by its longest ending that exists in the image folder. Names that are
    not found, or that several images would share, are kept.

    Args:
        images: Images of an annotation file.
        folder: Folder of the image files.

    Returns:
        Which images have been changed.
    """
    found = {}
    for index, image in enumerate(images):
        name = image.get('file_name')
        if is_name(name) and _is_foreign(name) and not osp.isfile(osp.join(folder, name)):
            found[index] = next(
                (end for end in _endings(name) if osp.isfile(osp.join(folder, end))),
                name.replace('\\', '/') if not _is_absolute(name) else name,
            )
    images_of = Counter(found.values())
    changed = {
        i: name
        for i, name in found.items()
        if name != images[i]['file_name'] and images_of[name] == 1
    }
    for index, name in changed.items():
        images[index]['file_name'] = name
    renamed = {id(images[index]) for index in changed}
    what = "images whose 'file_name' has backslashes or is a path of another machine"
    rule = Rule(what, f'searched by name in {folder or "."}', lambda image: id(image) in renamed)
    return find_issues('images', images, [rule])


def _is_absolute(name: str) -> bool:
    return bool(DRIVE.match(name)) or name[0] in '/\\'


def _is_foreign(name: str) -> bool:
    return '\\' in name or _is_absolute(name)


def _endings(name: str) -> Iterator[str]:
    """Yields the endings of a path as relative paths, the longest first."""
    parts = [part for part in DRIVE.sub('', name).replace('\\', '/').split('/') if part]
    for start in range(len(parts)):
        if '..' not in parts[start:]:
            yield '/'.join(parts[start:])
