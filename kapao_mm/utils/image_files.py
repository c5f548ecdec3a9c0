# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds and reads image files, and writes pictures."""

import glob
import io
import os
import warnings
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kapao_mm.errors import InputError

from .atomic_file import atomic_path

IMAGE_SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')

MAX_BYTES = 2**31  # limit of an image file
MAX_JPEG_SIDE = 65500  # px
MAX_NAME = 240  # bytes; most file systems allow 255, and a number and a suffix are added


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents.

    Args:
        folder: Path of the folder.

    Raises:
        InputError: If the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'folder {folder} cannot be created: {error.strerror}') from error


def find_images(given: list[str]) -> Iterator[Path | InputError]:
    """Yields the images of files, folders and patterns, or an error for one that has no image."""
    for name in given:
        yield from find_files(name, IMAGE_SUFFIXES, 'image')


def find_files(name: str, suffixes: Collection[str], kind: str) -> list[Path | InputError]:
    """Returns a file, the files in a folder (not deeper), or those that match a pattern.

    Args:
        name: Path of a file or folder, or a pattern such as ``'photos/**/*.jpg'``.
        suffixes: Suffixes of the files to find in folders and by patterns.
        kind: What the files are, for messages.

    Returns:
        Sorted paths, or one error if there is no such file.
    """
    path = Path(name)
    if os.path.isdir(name):
        kinds = kind.replace(' or ', 's or ') + 's'
        fault = f'folder {path.absolute()} has no {kinds} ({" ".join(suffixes)})'
        try:
            return _with_suffix(path.iterdir(), suffixes) or [InputError(fault)]
        except OSError as error:
            return [InputError(f'folder {path.absolute()} cannot be read: {error.strerror}')]
    if os.path.exists(name):
        return [path]
    matches = sorted(glob.glob(name, recursive=True))
    # With ** a link to a folder above repeats the files of that folder.
    identity = os.path.realpath if '**' in name else str
    unique = {identity(match): match for match in reversed(matches)}
    fault = f'{kind} {path.absolute()} does not exist'
    return _with_suffix(map(Path, unique.values()), suffixes) or [InputError(fault)]


def _with_suffix(paths: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in suffixes)


class OutputNames:
    """Gives the results of each image a unique name: that of the image, with a number if needed.

    Names that are too long for a file system are cut.

    Examples:
        >>> names = OutputNames()
        >>> [names(path.stem, path) for path in (Path('x/a.jpg'), Path('y/a.jpg'), Path('x/a.jpg'))]
        ['a', 'a_2', 'a']
    """

    def __init__(self) -> None:
        self._names: dict[Hashable, str] = {}  # by image
        self._taken: set[str] = set()
        self._last: dict[str, int] = defaultdict(lambda: 1)  # last number of each stem

    def __call__(self, stem: str, image: Hashable) -> str:
        """Returns the name of an image's results, which is the same in each call.

        Args:
            stem: Desired name.
            image: Value that identifies the image, such as its path.
        """
        if image not in self._names:
            while len(os.fsencode(stem)) > MAX_NAME:
                stem = stem[:-1]
            name = stem
            while name in self._taken:
                self._last[stem] += 1
                name = f'{stem}_{self._last[stem]}'
            self._taken.add(name)
            self._names[image] = name
        return self._names[image]


def read_image(path: Path) -> np.ndarray:
    """Reads an image file, see :func:`decode_image`.

    Returns:
        The image, BGR (h, w, 3) uint8.

    Raises:
        InputError: If the file is missing, not an image, or too large.
    """
    name = str(path.absolute())
    if '\0' in name:  # Python's functions would raise a ValueError
        raise InputError(f'image {name!r} does not exist')
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait forever
            raise InputError(f'image {name} cannot be read as an image: it is not a file')
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f'image {name} is larger than {MAX_BYTES:,} bytes')
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f'image {name} does not exist') from error
    except OSError as error:
        raise InputError(f'image {name} cannot be read: {error.strerror}') from error
    return decode_image(content, name)


def decode_image(content: bytes, name: str) -> np.ndarray:
    """Decodes the bytes of an image file as MMPose's LoadImage does.

    The image is turned as its EXIF orientation says, 16 bits are scaled to 8, and transparency is
    dropped. An image of more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 million px) is refused
    before it is decoded, to save memory.

    Args:
        content: Bytes of the file.
        name: Name of the image in errors.

    Returns:
        The image, BGR (h, w, 3) uint8.

    Raises:
        InputError: If the bytes are not an image, or it is too large.
    """
    _check_size(content, name)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or a side beyond OpenCV's limit
        image = None
    if image is None:
        raise InputError(f'image {name} cannot be read as an image')
    return image


def _check_size(content: bytes, name: str) -> None:
    """Raises an InputError if the header of an image file says that the image is too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # at half the limit
            Image.open(io.BytesIO(content)).close()
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise InputError(f'image {name} has more than {limit:,} px: reduce it') from error
    except Exception:  # OpenCV knows more formats, and its error is reported
        return


def write_picture(picture: np.ndarray, path: Path) -> Path:
    """Writes a picture completely or not at all.

    A JPEG file is replaced by PNG if the picture is too large for JPEG.

    Args:
        picture: Picture, BGR (H, W, 3) uint8.
        path: Path of the file; its suffix is the format.

    Returns:
        Path of the written file.

    Raises:
        InputError: If the format is unknown or does not support the size, or the file cannot be
            written.
    """
    is_jpeg = path.suffix.lower() in ('.jpg', '.jpeg')
    if is_jpeg and max(picture.shape) > MAX_JPEG_SIDE:
        path = path.with_suffix('.png')
    try:
        encoded, content = cv2.imencode(path.suffix, picture)
    except cv2.error:  # OpenCV does not know the format
        encoded = False
    if not encoded:
        height, width = picture.shape[:2]
        raise InputError(
            f'{path.absolute()} cannot be written: OpenCV does not know the format, or the format '
            f'does not allow {width} x {height} px'
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path
