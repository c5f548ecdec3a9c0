# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares the sizes of decoded images with those in the annotation file."""

import logging
import mmap
import os.path as osp

from mmengine.logging import print_log
from PIL import Image

from kapao_mm.errors import InputError

ORIENTATION = 0x0112  # EXIF tag


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
            f'annotation file {osp.abspath(self.ann_file)}, image {image_id}: {fault}, so that its '
            'labels may lie beside the people; kapao check-dataset lists all such images'
        )
        if self.on_mismatch == 'stop':
            raise InputError(f"{message}. on_size_mismatch='warn' of the dataset goes on with them")
        if not self._warned[0]:
            self._warned[0] = 1
            print_log(f'{message}. This is said once', 'current', logging.WARNING)

    def __deepcopy__(self, memo: dict) -> 'SizeCheck':
        """Returns itself, so that copies of samples (Mosaic) and datasets share the state."""
        return self

    def __reduce__(self) -> tuple:
        """Creates a new check in a worker that is not forked; each such worker warns once."""
        return SizeCheck, (self.ann_file, self.on_mismatch)


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


def _is_turned(path: str) -> bool:
    """Returns whether the EXIF orientation of an image file exchanges its width and height."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(ORIENTATION, 1) > 4
    except Exception:  # PIL may not support a format that OpenCV decodes
        return False
