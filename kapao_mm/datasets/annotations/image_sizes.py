# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares image files, and their sizes, with the annotation file."""

import logging
import mmap
import os.path as osp
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmengine.logging import print_log
from PIL import Image
from rich.progress import track

from kapao_mm.errors import InputError
from kapao_mm.utils.image_files import read_image

from .issues import AnnotationIssue, Rule, find_issues
from .values import is_name

ORIENTATION = 0x0112  # EXIF tag
SHOW_PROGRESS = 200  # number of images
IMAGE_FAULTS = dict(
    missing=('images missing in {folder}', 'copy them there, or correct file_name'),
    unreadable=('images that cannot be read', 'copy them again'),
    size=(
        "images whose size is not their 'width' and 'height'",
        'correct these, or save images upright that are rotated by EXIF',
    ),
)

CHECK = 'its labels may be misplaced; kapao check-dataset lists all such images'


class SizeCheck:
    """Raises an error or warns if the size of an image differs from the annotation file.

    Forked worker processes share the state of the check, so that they warn only once for an
    annotation file.

    Args:
        ann_file: Path of the annotation file, for messages.
        on_mismatch: ``'stop'`` to raise an error, or ``'warn'``.
    """

    def __init__(self, ann_file: str, on_mismatch: str) -> None:
        self.ann_file = ann_file
        self.on_mismatch = on_mismatch
        self._warned = mmap.mmap(-1, 1)  # one byte that forked processes share

    def __call__(
        self, size: tuple[int, int], annotated: tuple[int, int], path: str, image_id: int
    ) -> None:
        """Compares the size of a decoded image with the annotated one.

        Args:
            size: Size (w, h) of the decoded image, px.
            annotated: Size (w, h) in the annotation file, px.
            path: Path of the image.
            image_id: Id of the image in the annotation file.

        Raises:
            InputError: If the sizes differ and ``on_mismatch`` is ``'stop'``.
        """
        if tuple(size) == tuple(annotated):
            return
        fault = describe_mismatch(size, annotated, path)
        message = (
            f'annotation file {osp.abspath(self.ann_file)}, image {image_id}: {fault}, so {CHECK}'
        )
        if self.on_mismatch == 'stop':
            raise InputError(f"{message}. on_size_mismatch='warn' of the dataset accepts them")
        if not self._warned[0]:
            self._warned[0] = 1
            print_log(f'{message}. This warning appears once', 'current', logging.WARNING)

    def __deepcopy__(self, memo: dict) -> 'SizeCheck':
        """Returns itself, so that copies of samples (Mosaic) and datasets share the state."""
        return self

    def __reduce__(self) -> tuple:
        """Creates a new check in a worker that is not forked; each such worker warns once."""
        return SizeCheck, (self.ann_file, self.on_mismatch)


def find_image_faults(images: list[dict], folder: str) -> list[AnnotationIssue]:
    """Finds images that are missing, cannot be decoded or have another size than annotated.

    Images are fully decoded, because only this reveals truncated files and applies the EXIF
    orientation.

    Args:
        images: Images of an annotation file without errors.
        folder: Folder of the image files.
    """
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda image: _image_fault(image, folder), images)
        faults = {image['id']: fault for image, fault in zip(images, found, strict=True)}
    rules = [
        Rule(what.format(folder=folder), remedy, lambda image, key=key: faults[image['id']] == key)
        for key, (what, remedy) in IMAGE_FAULTS.items()
    ]
    return find_issues('images', images, rules)


def fill_sizes(images: list[dict], folder: str | None) -> list[AnnotationIssue]:
    """Fills missing sizes of images from their files, in place.

    Sizes that are null, 0 or negative are missing. Those that cannot be read are removed.

    Args:
        images: Images of an annotation file.
        folder: Folder of the image files; None leaves the sizes missing.

    Returns:
        Which images got their size.
    """
    missing = [i for i, image in enumerate(images) if _lacks_size(image)]
    for index in missing:
        for key in ('width', 'height'):
            images[index].pop(key, None)
    if folder is None or not missing:
        return []
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda i: _file_size(images[i], folder), missing)
        title = f'Reading {len(missing)} image sizes'
        hide = len(missing) < SHOW_PROGRESS
        shown = track(sizes, title, total=len(missing), transient=True, disable=hide)
        found = {i: size for i, size in zip(missing, shown, strict=True) if size}
    for index, (width, height) in found.items():
        images[index].update(width=width, height=height)
    filled = {id(images[index]) for index in found}
    what = "images whose 'width' or 'height' is missing, null, 0 or negative"
    rule = Rule(what, f'read from their files in {folder or "."}', lambda im: id(im) in filled)
    return find_issues('images', images, [rule])


def _lacks_size(image: dict) -> bool:
    sides = [image.get(key) for key in ('width', 'height')]
    return any(side is None or (type(side) in (int, float) and side <= 0) for side in sides)


def _file_size(image: dict, folder: str) -> tuple[int, int] | None:
    """Returns the size (w, h) of an image as it is decoded, or None if it cannot be read."""
    if not is_name(image.get('file_name')):
        return None
    path = osp.join(folder, image['file_name'])
    try:
        return read_header(path)[0]
    except Exception:  # PIL may not support a format that OpenCV decodes
        try:
            return read_image(Path(path)).shape[1::-1]
        except InputError:
            return None


def read_header(path: str | Path) -> tuple[tuple[int, int], bool]:
    """Reads the size (w, h) px of an image as it is shown, from its header.

    Returns:
        The size, and whether the EXIF orientation exchanges the stored width and height.

    Raises:
        OSError: If PIL cannot read the file. For damaged files PIL raises other errors, too.
    """
    with Image.open(path) as image:
        turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size, turned


def describe_mismatch(size: tuple[int, int], annotated: tuple[int, int], path: str) -> str:
    """Returns a message on how an image's size (w, h) differs from the annotated one.

    The message includes the reason if width and height are exchanged.
    """
    reason = ''
    if tuple(size) == tuple(annotated)[::-1]:
        reason = ' (exchanged)'
        if _is_turned(path):
            reason = ' (exchanged: its EXIF orientation turns it)'
    return (
        f'{osp.abspath(path)} is {size[0]} x {size[1]} px, the annotations say '
        f'{annotated[0]} x {annotated[1]}{reason}'
    )


def size_fault(image: dict, path: Path) -> str | None:
    """Returns how the size of an image file differs from the annotation file, or None.

    Args:
        image: Image of an annotation file, with ``width`` and ``height``.
        path: Path of the image. One that cannot be read gives None.
    """
    try:
        size = read_image(path).shape[1::-1]
    except InputError:
        return None
    annotated = image['width'], image['height']
    return None if size == annotated else describe_mismatch(size, annotated, str(path))


def _is_turned(path: str) -> bool:
    """Returns whether the EXIF orientation of an image file exchanges its width and height."""
    try:
        return read_header(path)[1]
    except Exception:  # PIL may not support a format that OpenCV decodes
        return False


def _image_fault(image: dict, folder: str) -> str | None:
    """Returns the fault of an image, a key of :data:`IMAGE_FAULTS`, or None."""
    path = Path(folder, image['file_name'])
    try:
        pixels = read_image(path)
    except InputError:
        return 'unreadable' if osp.exists(path) else 'missing'  # Path.exists may raise
    return None if pixels.shape[:2] == (image['height'], image['width']) else 'size'
