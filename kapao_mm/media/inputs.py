# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Opens what is to be predicted: images, folders, videos, URLs, cameras and streams."""

import logging
import os
import os.path as osp
import re
import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import cv2
import numpy as np
from PIL import Image

from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr
from kapao_mm.utils.image_files import IMAGE_SUFFIXES, decode_image, find_files, read_image

from .video import TIMEOUT, VIDEO_SUFFIXES, FrameChoice, VideoReader, without_password

logger = logging.getLogger(__name__)

_Item = tuple[Any, str, Hashable]  # an image, or the error of a missing one; name, identity

LIVE_SCHEMES = ('rtmp', 'rtmps', 'rtp', 'rtsp', 'rtsps', 'srt', 'tcp', 'udp')
PLAYLISTS = ('.m3u8', '.mpd')
CAMERA = re.compile(r'(?:webcam:?|/dev/video)?(\d*)')
MAX_DOWNLOAD = 2**28  # bytes of an image
MAX_DOWNLOAD_TIME = 60.0  # s
MAY_MOVE = ('.gif', '.png', '.tif', '.tiff', '.webp')  # files that can have several pictures
HEIC = (b'heic', b'heix', b'hevc', b'heim', b'mif1', b'msf1')  # the pictures of phones
VIDEO_STARTS = re.compile(  # of the formats of VIDEO_SUFFIXES
    rb'.{4}(ftyp|moov|mdat|wide|free)|\x1aE\xdf\xa3|RIFF.{4}AVI |OggS|FLV|\x30\x26\xb2\x75'
    rb'|G.{187}G|.{4}G.{191}G|\0\0\x01[\xb3\xba]|\0\0\0\x01',
    re.DOTALL,
)


class Frame(NamedTuple):
    """An image, or a frame of a video.

    Attributes:
        pixels: Original image, BGR (h, w, 3) uint8.
        name: Path or URL, or a made-up name such as ``000000.jpg``.
        identity: Value that differs from that of other images with the same name.
        frame: Number of the frame in its video, from 0. None for an image.
        time: Time of the frame in its video, s. None for an image.
    """

    pixels: np.ndarray
    name: str
    identity: Hashable
    frame: int | None = None
    time: float | None = None


class Source:
    """Yields the frames of neighboring images, of a video, or of a camera.

    What cannot be read is yielded as an :class:`InputError` in its place: an image among others,
    or the end of a video. The caller decides whether to go on.

    Attributes:
        name: Path, URL, or ``'images'``.
        kind: ``'images'``, ``'video'``, or ``'live'`` for cameras and streams, which do not wait.
        total: Number of images or frames, for videos about; None if unknown.
        fps: Frames per second of a video; None for images.
        size: (w, h) of the frames of a video, px; None for images.
        duration: Length of a video, s; None if unknown.

    A video is opened when it is iterated, or when one of the last four attributes is asked for.
    They are None if it cannot be opened.
    """

    total: int | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    duration: float | None = None

    def __init__(self, name: str, kind: str = 'images') -> None:
        self.name, self.kind = name, kind

    def __iter__(self) -> Iterator[Frame | InputError]:
        raise NotImplementedError

    def close(self) -> None:
        """Closes what is open."""


class _Images(Source):
    """Neighboring images: paths, URLs, arrays, and errors of what was not found."""

    def __init__(self) -> None:
        super().__init__('images')
        self._items: list[_Item] = []

    def add(self, image: Any, name: str, identity: Hashable) -> None:
        """Adds an image."""
        self._items.append((image, name, identity))
        self.total = len(self._items)

    def __iter__(self) -> Iterator[Frame | InputError]:
        for image, name, identity in self._items:
            try:
                yield Frame(_pixels(image), name, identity)
            except InputError as error:
                yield error


class _Lazy(Source):
    """Whatever an iterator gives, one after the other; it may never end."""

    def __init__(self, items: Iterable, opener: '_Opener') -> None:
        super().__init__('images')
        self._items, self._opener = items, opener

    def __iter__(self) -> Iterator[Frame | InputError]:
        for item in self._items:
            for source in self._opener.sources([item]):
                yield from source

    def close(self) -> None:
        if hasattr(self._items, 'close'):
            self._items.close()


class _Device(Source):
    """Base of videos and cameras, which have to be opened.

    If opening fails because an attribute is asked for, the error is kept and yielded by the loop.
    """

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, kind)
        self._opened: Any = None
        self._fault: InputError | None = None
        self._facts: dict[str, Any] | None = None  # also known after the end

    total = property(lambda self: self._fact('total'))
    fps = property(lambda self: self._fact('fps'))
    size = property(lambda self: self._fact('size'))
    duration = property(lambda self: self._fact('duration'))

    def _open(self) -> Any:
        raise NotImplementedError

    def _describe(self, opened: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _frames(self, opened: Any) -> Iterator[Frame]:
        raise NotImplementedError

    def _fact(self, name: str) -> Any:
        if self._facts is None:
            self._try_to_open()
        return self._facts.get(name)

    def _try_to_open(self) -> None:
        if self._opened is None and self._fault is None:
            try:
                self._opened = self._open()
                self._facts = self._describe(self._opened)
            except InputError as error:
                self._fault, self._facts = error, {}

    def __iter__(self) -> Iterator[Frame | InputError]:
        try:
            self._try_to_open()
            if self._fault is not None:
                raise self._fault
            yield from self._frames(self._opened)
        except InputError as error:
            yield error
        finally:
            self.close()

    def close(self) -> None:
        opened, self._opened, self._fault = self._opened, None, None
        if opened is not None:
            (getattr(opened, 'close', None) or opened.release)()


class _Video(_Device):
    """A video file or a stream."""

    def __init__(self, place: str, kind: str, every: int, fps: float | None) -> None:
        super().__init__(without_password(place) if '://' in place else place, kind)
        self._place = place
        self._choice = dict(every=every, fps=fps)

    def _open(self) -> VideoReader:
        return VideoReader(self._place, **self._choice, live=self.kind == 'live')

    def _describe(self, opened: VideoReader) -> dict[str, Any]:
        return {name: getattr(opened, name) for name in ('total', 'fps', 'size', 'duration')}

    def _frames(self, opened: VideoReader) -> Iterator[Frame]:
        for number, seconds, pixels in opened:
            yield Frame(pixels, self.name, (self.name, number), number, seconds)


class _Camera(_Device):
    """A camera of this computer."""

    def __init__(self, index: int, every: int, fps: float | None) -> None:
        super().__init__(f'webcam:{index}', 'live')
        self._index, self._choice = index, FrameChoice(every, fps)

    def _open(self) -> cv2.VideoCapture:
        log = cv2.utils.logging
        level = log.setLogLevel(log.LOG_LEVEL_SILENT)  # our error says it
        try:
            camera = cv2.VideoCapture(self._index)
        finally:
            log.setLogLevel(level)
        if not camera.isOpened():
            raise InputError(
                f'{self.name} cannot be opened: is there a camera with this number, and may this '
                'user read it?'
            )
        return camera

    def _describe(self, opened: cv2.VideoCapture) -> dict[str, Any]:
        sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        size = tuple(int(opened.get(side)) for side in sides)
        return dict(fps=self._choice.rate(opened.get(cv2.CAP_PROP_FPS) or 30.0), size=size)

    def _frames(self, opened: cv2.VideoCapture) -> Iterator[Frame]:
        start = None
        for number in count():
            good, pixels = opened.read()
            if not good:
                raise InputError(f'{self.name} gives no more pictures, after {number}')
            now = time.monotonic()
            start = now if start is None else start
            if self._choice(number, now - start):
                pixels = as_bgr(pixels)
                yield Frame(pixels, self.name, (self.name, number), number, now - start)


def open_inputs(inputs: Any, every: int = 1, fps: float | None = None) -> list[Source]:
    """Finds the inputs of a prediction. They are read when the sources are iterated.

    Args:
        inputs: One of these, or a list, tuple or iterator of them:

            - path of an image, a video or a folder with both, or a pattern (``'photos/*.jpg'``);
            - URL of an image or a video (``http``, ``https``) or a stream (``rtsp``, ``rtmp``,
              ``udp`` and others);
            - number of a camera, also written ``'webcam'`` (the first) or ``'webcam:1'``;
            - numpy array or PIL image, see :func:`as_bgr`, or an array of several, (N, h, w, 3).

        every: Takes every n-th frame of videos.
        fps: Takes about that many frames of videos per second.

    Returns:
        Sources in order. Neighboring images make up one source. So does an iterator, which may be
        endless.

    Raises:
        InputError: If ``every`` or ``fps`` is not positive. What is wrong with an input is yielded
            by its source.

    Examples:
        >>> for source in open_inputs(['a.jpg', 'street.mp4'], fps=5):
        ...     for frame in source:
        ...         if isinstance(frame, InputError):
        ...             print('error:', frame)
        ...         else:
        ...             print(frame.name, frame.time, frame.pixels.shape)
    """
    FrameChoice(every, fps)  # checks them
    return _Opener(every, fps).sources(inputs)


class _Opener:
    """Opens the inputs of one call, which numbers the pictures that have no name."""

    def __init__(self, every: int, fps: float | None) -> None:
        self._choice = every, fps
        self._numbers = count()  # of pictures without a name
        self._call = object()

    def sources(self, inputs: Any) -> list[Source]:
        """Returns the sources of inputs, see :func:`open_inputs`."""
        sources = []
        for found in self._flat(inputs):
            if isinstance(found, Source):
                sources.append(found)
                continue
            if not (sources and isinstance(sources[-1], _Images)):
                sources.append(_Images())
            sources[-1].add(*found)
        return sources

    def _flat(self, inputs: Any) -> Iterator[Source | _Item]:
        """Yields videos, cameras and iterators as sources; images with name and identity."""
        if isinstance(inputs, list | tuple) or (
            isinstance(inputs, np.ndarray) and inputs.ndim == 4
        ):
            for item in inputs:
                yield from self._flat(item)
            return
        if isinstance(inputs, str | Path):
            try:
                yield from self._place(str(inputs))
            except InputError as error:
                yield error, str(inputs), str(inputs)
        elif isinstance(inputs, int) and not isinstance(inputs, bool):
            yield _Camera(inputs, *self._choice)
        elif isinstance(inputs, Iterable) and not (
            isinstance(inputs, bytes) or hasattr(inputs, 'shape')
        ):
            yield _Lazy(inputs, self)
        else:
            number = next(self._numbers)
            yield inputs, f'{number:06}.jpg', (self._call, number)

    def _place(self, place: str) -> Iterator[Source | _Item]:
        """Yields what is at a path, pattern or URL, or the camera of that name."""
        camera = CAMERA.fullmatch(place)
        if place and camera and (place.startswith('/dev/') or not osp.exists(place)):
            yield _Camera(int(camera[1] or 0), *self._choice)
        elif '://' in place:
            kind = _kind_of_url(place)
            yield (place, place, place) if kind == 'images' else _Video(place, kind, *self._choice)
        else:
            yield from self._files(place)

    def _files(self, place: str) -> Iterator[Source | _Item]:
        """Yields the files at a path or pattern; of a folder the images come first."""
        found = find_files(place, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES), 'image or video')
        if osp.isdir(place) and isinstance(found[0], Path):
            _warn_of_others(place, len(found))
            found.sort(key=lambda path: path.suffix.lower() in VIDEO_SUFFIXES)
        for path in found:
            try:
                if isinstance(path, InputError):
                    raise path
                if _is_video(path):
                    yield _Video(str(path), 'video', *self._choice)
                else:
                    yield path, str(path), osp.abspath(path)
            except InputError as error:
                yield error, place, place


def _warn_of_others(folder: str, used: int) -> None:
    """Says how many visible entries of a folder are not used, if some are."""
    others = sum(not entry.startswith('.') for entry in os.listdir(folder)) - used
    if others > 0:
        logger.warning(
            'folder %s: %d other files or folders are left out', osp.abspath(folder), others
        )


def _is_video(path: Path) -> bool:
    """Returns whether a file is a video rather than an image, by its suffix or content.

    Raises:
        InputError: If it is neither.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return False
    if not path.is_file():  # reading a pipe would wait forever
        raise InputError(f'{path.absolute()} is not a file')
    if cv2.haveImageReader(str(path)):
        return False
    if suffix in VIDEO_SUFFIXES:
        return True
    try:
        with path.open('rb') as file:
            start = file.read(400)
    except OSError as error:
        raise InputError(f'{path.absolute()} cannot be read: {error.strerror}') from error
    if start[4:8] == b'ftyp' and start[8:12] in HEIC:
        raise InputError(f'image {path.absolute()} is a HEIC file: convert it to JPEG')
    if VIDEO_STARTS.match(start):
        return True
    raise InputError(f'{path.absolute()} is neither an image nor a video')


def _kind_of_url(url: str) -> str:
    """Returns the kind of source at a URL; its server is asked if the suffix does not tell.

    Raises:
        InputError: If there is no answer, or the kind of URL is not supported.
    """
    parts = urlsplit(url)
    suffix = Path(parts.path).suffix.lower()
    if parts.scheme in LIVE_SCHEMES:
        return 'live'
    if parts.scheme not in ('http', 'https'):
        raise InputError(f'{url} cannot be read: {parts.scheme}:// is not supported')
    if suffix in IMAGE_SUFFIXES:
        return 'images'
    if suffix in (*VIDEO_SUFFIXES, *PLAYLISTS):
        return 'video'
    with _answer(url) as answer:
        content = answer.headers.get_content_type()
    if content == 'multipart/x-mixed-replace':  # the usual stream of a network camera
        return 'live'
    if content.startswith('text/'):
        raise InputError(f'{url} is neither an image nor a video, but {content}')
    return 'images' if content.startswith('image/') else 'video'


@contextmanager
def _answer(url: str) -> Iterator[HTTPResponse]:
    """Yields the answer of a server; errors while it is read are raised as InputError."""
    try:
        with urlopen(Request(url, headers={'User-Agent': 'kapao-mm'}), timeout=TIMEOUT) as answer:
            yield answer
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, 'reason', error) if not isinstance(error, HTTPError) else error
        raise InputError(f'{url} cannot be read: {reason}') from error


def _download(url: str) -> bytes:
    """Downloads an image, within limits of size and time."""
    content, end = bytearray(), time.monotonic() + MAX_DOWNLOAD_TIME
    with _answer(url) as answer:
        while chunk := answer.read1(2**16):
            content += chunk
            if len(content) > MAX_DOWNLOAD:
                raise InputError(f'image {url} is larger than {MAX_DOWNLOAD:,} bytes')
            if time.monotonic() > end:
                raise InputError(f'image {url} takes longer than {MAX_DOWNLOAD_TIME:g} s to load')
    return bytes(content)


def _pixels(image: Any) -> np.ndarray:
    """Reads or converts an image to BGR (h, w, 3) uint8."""
    if isinstance(image, InputError):
        raise image
    if isinstance(image, str):
        return decode_image(_download(image), image)
    if not isinstance(image, Path):
        return as_bgr(image)
    pixels = read_image(image)
    if image.suffix.lower() in MAY_MOVE:
        with Image.open(image) as opened:
            if getattr(opened, 'is_animated', False) and opened.format != 'MPO':
                logger.warning('image %s has several pictures: the first is used', image.absolute())
    return pixels
