# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares the sizes of decoded images with those in the annotation file."""

import logging
import mmap
import os.path as osp

from mmengine.logging import print_log
from PIL import Image

from kapao_mm.errors import InputError

ORIENTATION = 0x0112  # number of the EXIF entry


class SizeCheck:
    """Stops or warns when an image does not have the size that its annotation file says.

    Forked worker processes share it, so that there is one warning for a file.

    Args:
        ann_file: The annotation file.
        on_mismatch: ``'stop'`` or ``'warn'``.
    """

    def __init__(self, ann_file: str, on_mismatch: str) -> None:
        self.ann_file = ann_file
        self.on_mismatch = on_mismatch
        self._warned = mmap.mmap(-1, 1)  # a byte of memory that stays shared after a fork

    def __call__(
        self, size: tuple[int, int], annotated: tuple[int, int], path: str, image_id: int
    ) -> None:
        """Compares the sizes of an image.

        Args:
            size: (w, h) of the decoded image.
            annotated: (w, h) by the annotation file.
            path: The image file.
            image_id: Its id in the annotation file.

        Raises:
            InputError: If they differ and ``on_mismatch`` is ``'stop'``.
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
        """Returns itself: Mosaic copies samples, and subsets copy datasets."""
        return self

    def __reduce__(self) -> tuple:
        """Makes another one in a worker that is not forked; such workers warn once each."""
        return SizeCheck, (self.ann_file, self.on_mismatch)


def describe_mismatch(size: tuple[int, int], annotated: tuple[int, int], path: str) -> str:
    """Says how an image's size (w, h) differs from the annotated one, and why if that is clear."""
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
    """Whether the EXIF orientation of an image file exchanges its width and height."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(ORIENTATION, 1) > 4
    except Exception:  # OpenCV has decoded it, PIL may not know its format
        return False
