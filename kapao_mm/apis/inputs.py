# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Opens the inputs of an inferencer: images, folders, videos and webcams."""

import logging
import os.path as osp
from collections.abc import Iterable, Iterator
from mimetypes import guess_type
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmengine.logging import print_log
from PIL import Image

from kapao_mm.datasets.transforms import CheckedLoadImage
from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr
from kapao_mm.utils.image_files import find_images

ImageLike = str | Path | np.ndarray | Image.Image


class Picture(NamedTuple):
    """An image to predict.

    Attributes:
        pixels: Image, BGR (h, w, 3) uint8.
        path: Path of the image, or a made-up name if it has none.
        identity: Value that differs from that of other images with the same name.
    """

    pixels: np.ndarray
    path: str
    identity: Any


def is_webcam(inputs: Any) -> bool:
    """Returns whether the inputs name a webcam."""
    return isinstance(inputs, str) and inputs.startswith('webcam') and not osp.exists(inputs)


def is_video(inputs: Any) -> bool:
    """Returns whether the inputs are the path or URL of a video, judged by its suffix."""
    if not isinstance(inputs, str | Path) or osp.isdir(inputs):
        return False
    return (guess_type(str(inputs))[0] or '').startswith('video/')


def open_video(path: str) -> mmcv.VideoReader:
    """Opens a video file or URL; its frames are BGR.

    Raises:
        InputError: If the file does not exist.
    """
    if '://' not in path and not osp.exists(path):
        raise InputError(f'video {osp.abspath(path)} does not exist')
    return mmcv.VideoReader(path)


def checked_frames(
    frames: Iterable[np.ndarray], name: str, expected: int = 0
) -> Iterator[np.ndarray]:
    """Yields frames, and warns if there are fewer than expected.

    Args:
        frames: Frames, BGR (h, w, 3) uint8.
        name: Name of the video or webcam, for messages.
        expected: Number of expected frames; 0 if unknown.

    Raises:
        InputError: If there is no frame.
    """
    count = 0
    for frame in frames:
        count += 1
        yield frame
    if not count:
        raise InputError(f'{name} cannot be read: it has no frame')
    if count < expected:
        print_log(f'{name} ends after {count} of {expected} frames', 'current', logging.WARNING)


def read_images(inputs: ImageLike | Iterable[ImageLike]) -> Iterator[Picture]:
    """Reads and converts images one by one.

    Args:
        inputs: A file, a folder, an image that :func:`as_bgr` converts, or several files and
            images.

    Yields:
        The images in order.

    Raises:
        InputError: If an image cannot be read. For a folder it is raised after all other images.
    """
    folder = inputs if isinstance(inputs, str | Path) and osp.isdir(inputs) else None
    if folder:
        inputs = find_images([str(folder)])
    elif isinstance(inputs, ImageLike):
        inputs = [inputs]
    call, number, errors = object(), 0, []
    for number, image in enumerate(inputs, 1):
        try:
            picture = _load(image, number - 1, call)
        except InputError as error:
            if not folder:
                raise
            print_log(str(error), 'current', logging.ERROR)
            errors.append(error)
        else:
            yield picture
    if errors:
        raise InputError(
            f'{len(errors)} of {number} images of {osp.abspath(folder)} cannot be predicted, '
            f'first {errors[0]}'
        )


def _load(image: ImageLike | InputError, index: int, call: object) -> Picture:
    """Reads or converts image number ``index`` of a call of the inferencer."""
    if isinstance(image, InputError):  # from a folder without images
        raise image
    if isinstance(image, str | Path):
        path = str(image)
        pixels = CheckedLoadImage().transform(dict(img_path=path))['img']
        return Picture(pixels, path, osp.abspath(path))
    return Picture(as_bgr(image), f'{index}.jpg'.rjust(10, '0'), (call, index))


def in_batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Groups images into batches of ``size``.

    If reading fails, the images before the error are yielded first, then the error is raised.
    """
    batch = []
    try:
        for picture in pictures:
            batch.append(picture)
            if len(batch) == size:
                yield batch
                batch = []
    except InputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
