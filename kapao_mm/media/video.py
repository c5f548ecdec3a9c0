# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads and writes videos with PyAV, with upright pictures that keep their times."""

import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable

from .read_ahead import WriteBehind

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    '.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mjpeg', '.mkv', '.mov',
    '.mp4', '.mpeg', '.mpg', '.mts', '.ogv', '.ts', '.webm', '.wmv',
)  # fmt: skip
MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # of a frame; the limit of images
TIMEOUT = 10.0  # s without an answer of a server
USUAL_FPS = 25.0  # of a video that does not say its own

# The first encoder that the installed PyAV has is taken. Browsers do not play the last one.
ENCODERS = ('libx264', 'libopenh264', 'mpeg4')
TICKS = 60_000  # time stamps per second in written videos; mpeg4 allows 65,535
AT_ONCE = {'flush_packets': '1'}  # what is encoded reaches the disk, for when the process is killed
FRAGMENTED = AT_ONCE | {'movflags': '+frag_keyframe+empty_moov+default_base_moof'}
FAST_START = {'movflags': '+faststart'}


class FrameChoice:
    """Chooses the frames of a video to use.

    Args:
        every: Takes every frame (1), every second (2) and so on.
        fps: Takes about that many frames per second, by their times. None takes all.

    Raises:
        InputError: If a value is not positive.

    Examples:
        >>> choice = FrameChoice(fps=10)
        >>> [number for number in range(8) if choice(number, number / 25)]
        [0, 2, 4, 7]
    """

    def __init__(self, every: int = 1, fps: float | None = None) -> None:
        if every != int(every) or every < 1:
            raise InputError(f'every must be a whole number from 1, got {every}')
        if fps is not None and not 0 < fps < math.inf:
            raise InputError(f'fps must be positive, got {fps}')
        self._every, self._fps = int(every), fps
        self._slot = -math.inf

    def __call__(self, number: int, time: float) -> bool:
        """Returns whether to take a frame. The frames must be given in order.

        Args:
            number: Number of the frame, from 0.
            time: Time of the frame, s.
        """
        if number % self._every:
            return False
        if self._fps is None:
            return True
        # Time is cut into slots, each about a multiple of 1 / fps, and gives a frame to each. A
        # bit less than 0.5 is added, because many files round times to milliseconds.
        slot = math.floor(time * self._fps + 0.45)
        taken = slot > self._slot
        self._slot = max(slot, self._slot)
        return taken

    def rate(self, fps: float) -> float:
        """Returns how many of a video's frames per second are taken."""
        return min(fps / self._every, self._fps or math.inf)

    def count(self, frames: int, step: float) -> int:
        """Returns about how many frames of a video are taken, if they are ``step`` s apart."""
        by_number = math.ceil(frames / self._every)
        if self._fps is None or not frames:
            return by_number
        return min(by_number, math.floor((frames - 1) * step * self._fps + 0.45) + 1)


def without_password(url: str) -> str:
    """Returns a URL without the user name and password in it, for messages and files."""
    return re.sub(r'(?<=://)[^/?#]*@', '', url)


class VideoReader:
    """Reads the frames of a video file or stream, turned and scaled as a player shows them.

    The rotation that the file asks for is done, as for videos of phones held upright. Pixels that
    are not square are scaled in x. If there are several video streams, FFmpeg chooses the best.
    Transparency is dropped and 10 bits become 8, without a conversion of HDR colors. One warning at
    the end counts damaged frames, and says if the file ends early.

    A reader can be iterated once, which closes it.

    Args:
        place: Path or URL.
        every: Takes every N-th frame.
        fps: Takes about that many frames per second, by their times.
        live: Whether the place is a camera. Its frames then arrive soon, but some may be lost.

    Attributes:
        name: Absolute path, or the URL.
        size: (w, h) of the frames, px, as they are shown.
        fps: Average frames per second, after ``every`` and ``fps``.
        duration: Length, s; None if unknown.
        total: Number of frames that will be read, in files without a frame count estimated; None
            if unknown.

    Raises:
        InputError: If the place cannot be opened, or has no video, or its frames are larger than
            an image may be. In a loop: if a read fails, after the frames before it.

    Examples:
        >>> for number, time, picture in VideoReader('street.mp4', fps=5):
        ...     print(f'frame {number} at {time:.2f} s has the shape {picture.shape}')
    """

    def __init__(
        self, place: str | Path, every: int = 1, fps: float | None = None, live: bool = False
    ) -> None:
        self._av = import_av()
        self._choice = FrameChoice(every, fps)
        self._live = live
        is_url = '://' in str(place)
        self._place = str(place) if is_url else str(Path(place).absolute())
        self.name = without_password(self._place) if is_url else self._place
        self._damaged = 0
        self._container = self._open()
        try:
            self._stream = self._find_stream()
            self._stream.thread_type = 'SLICE' if live else 'AUTO'  # frame threads add a delay
            self._stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}
            self._frames = self._decode()
            self._first = next(self._frames, None)
            if self._first is None:
                raise InputError(f'video {self.name} cannot be read: no frame can be decoded')
            self._describe()
        except BaseException:
            self.close()
            raise

    def _open(self) -> Any:
        is_remote = '://' in self.name
        if not is_remote:
            check_file(self.name)
        scheme = self.name.partition('://')[0]
        options = {'rtsp': {'rtsp_transport': 'tcp'}}.get(scheme, {})
        if self._live:
            options |= {'fflags': 'nobuffer', 'flags': 'low_delay', 'analyzeduration': '1000000'}
        if not is_remote:
            options |= {'protocol_whitelist': 'file'}  # a playlist must not open connections
        self._asked = monotonic()
        try:
            return self._av.open(
                self._place, options=options, timeout=TIMEOUT if is_remote else None
            )
        except (self._av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, self._av.error.InvalidDataError | self._av.error.EOFError):
                error.strerror = 'it is not a video, or its end is missing'
            raise self._failure('cannot be read', error) from error

    def _failure(self, what: str, error: Exception) -> InputError:
        reason = getattr(error, 'strerror', None) or str(error)
        waited = '://' in self.name and monotonic() - self._asked > 0.9 * TIMEOUT
        if waited or isinstance(error, self._av.error.ExitError):
            reason = f'no data within {TIMEOUT:g} s'
        return InputError(f'video {self.name} {what}: {reason}')

    def _find_stream(self) -> Any:
        stream = self._container.streams.best('video')
        if stream is None or stream.disposition & self._av.stream.Disposition.attached_pic:
            raise InputError(f'video {self.name} cannot be read: it has sound but no pictures')
        if stream.codec_context is None:
            raise InputError(f'video {self.name} cannot be read: PyAV does not know its codec')
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            raise InputError(f'video {self.name} has frames of more than {MAX_PIXELS:,} px')
        return stream

    def _describe(self) -> None:
        """Sets the attributes by the headers of the file and the first frame."""
        stream, container = self._stream, self._container
        rate = stream.average_rate or stream.guessed_rate
        self._step = 1 / float(rate) if rate else 1 / USUAL_FPS  # s between frames
        self.fps = self._choice.rate(1 / self._step)
        self.duration = None
        if stream.duration is not None:
            self.duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            self.duration = container.duration / self._av.time_base
        # The number in the header counts frames that an edit list cuts off, too.
        by_time = math.ceil((self.duration or 0) / self._step - 0.01)
        self._expected = min(stream.frames or by_time, by_time or stream.frames)
        self.total = self._choice.count(self._expected, self._step) or None
        ratio = stream.sample_aspect_ratio
        self._ratio = float(ratio) if ratio and 0.1 < ratio < 10 else 1.0
        self._turn = _turn(self._first)
        self.size = self._upright(self._first).shape[1::-1]

    def __iter__(self) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yields the number (from 0), time (s, from 0) and picture (h, w, 3) BGR of each frame."""
        clock = _Clock(self._step, None if self._live else self._container.start_time)
        number, end = -1, 0.0
        try:
            first, self._first = self._first, None
            for number, frame in enumerate(chain([first], self._frames)):
                # The frames that a decoder held back do not say the unit of their times.
                unit = frame.time_base or self._stream.time_base
                time = clock(None if frame.pts is None else float(frame.pts * unit))
                end = time + (float((frame.duration or 0) * unit) or self._step)
                self._damaged += bool(frame.is_corrupt)
                if self._choice(number, time):
                    yield number, time, self._upright(frame)
            self._warn(number + 1, end)
        finally:
            self.close()

    def _decode(self) -> Iterator[Any]:
        """Yields decoded frames. Packets that cannot be decoded are counted."""
        packets = self._container.demux(self._stream)
        count, failure = 0, None
        while failure is None:
            self._asked = monotonic()
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                failure, packet = error, None
            decode = packet.decode if packet else self._stream.codec_context.decode
            try:
                frames = decode()  # without a packet: the frames that the decoder holds back
            except self._av.error.EOFError:
                break
            except self._av.FFmpegError:
                self._damaged += 1
                continue
            for frame in frames:
                count += 1
                yield frame
            if packet is None:
                break
        if failure is not None:
            raise self._failure(f'ends after {count} frames', failure) from failure

    def _upright(self, frame: Any) -> np.ndarray:
        """Converts a frame to a picture as it is shown, (h, w, 3) BGR."""
        width = max(1, round(frame.width * self._ratio))
        picture = frame.to_ndarray(format='bgr24', width=width, threads=1)
        swaps, flip = self._turn
        if swaps:
            picture = cv2.transpose(picture)
        return picture if flip is None else cv2.flip(picture, flip)

    def _warn(self, count: int, end: float) -> None:
        """Warns of damaged frames, and if the video ends before the length in its header."""
        notes = []
        # The length of a file with sound may be that of the sound.
        known = self._stream.duration is not None or not self._container.streams.audio
        if known and self.duration and self.duration - end > max(3 * self._step, 0.1):
            notes.append(
                f'it ends after {count} of {self._expected} frames, at {end:.2f} s of '
                f'{self.duration:.2f} s'
            )
        if self._damaged:
            notes.append(f'damaged frames: {self._damaged}')
        if notes and not self._live:
            logger.warning('video %s is incomplete: %s', self.name, '; '.join(notes))

    def close(self) -> None:
        """Closes the file."""
        self._container.close()


def _turn(frame: Any) -> tuple[bool, int | None]:
    """Returns whether x and y of a frame are swapped, then the ``flipCode`` of ``cv2.flip``."""
    # Asked once for a video: a frame whose side data were looked at waits for garbage collection.
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return False, None
    # A pixel (x, y) is shown at (a x + c y, b x + d y), plus an offset.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
    swaps = abs(b) > abs(a)
    flips = (c if swaps else a) < 0, (b if swaps else d) < 0
    return swaps, {(True, False): 1, (False, True): 0, (True, True): -1}.get(flips)


class _Clock:
    """Turns time stamps of frames into seconds that start near 0 and always increase."""

    def __init__(self, step: float, start: int | None) -> None:
        self._step = step  # s, for frames without a time stamp
        self._offset = None if start is None else -start / 1e6
        self._last: float | None = None
        self._behind = False  # whether the last time stamp was too early

    def __call__(self, stamp: float | None) -> float:
        following = 0.0 if self._last is None else self._last + self._step
        if stamp is None:
            self._last = following
            return following
        if self._offset is None or (self._last is None and stamp + self._offset < 0):
            self._offset = -stamp
        time = stamp + self._offset
        behind = self._last is not None and time <= self._last
        if behind and self._behind and time < self._last - 1:  # streams that were joined
            self._offset += following - time
            time = following
        elif behind:  # after damage single frames come late
            time = self._last + min(self._step, 0.001)
        self._behind = behind
        self._last = time
        return time


class VideoWriter:
    """Writes pictures to a video that browsers and phones play: H.264, yuv420p.

    Every picture is shown from its own time until that of the next, so that videos with a variable
    frame rate keep their speed. A width or height that is odd, which yuv420p does not allow, is
    padded by one px at the right or the bottom. There is no sound.

    Pictures are encoded in a thread into a temporary file, which takes the path when the writer is
    closed, also after an error or Ctrl-C. If the process is killed, the hidden folder beside the
    path holds a video that can be played up to the last two seconds.

    Args:
        path: Path of the video; the suffix is one of .mp4, .mov, .mkv.
        fps: Nominal frames per second: the distance of pictures without a time, and the length of
            the last one.
        preset: Preset of x264. Slower ones make smaller files.
        crf: Quality of x264, from 0 (perfect) to 51. A value lower by 6 doubles the file.

    Attributes:
        count: Number of pictures.

    Raises:
        InputError: If the path, rate, or a picture is unsuitable, or the file cannot be written.

    Examples:
        >>> with VideoWriter('poses.mp4', fps=25) as writer:
        ...     for result in inferencer.predict('street.mp4', stream=True):
        ...         writer.write(result.plot(), result.time)
    """

    SUFFIXES = ('.mp4', '.mov', '.mkv')

    def __init__(
        self, path: str | Path, fps: float, preset: str = 'superfast', crf: int = 23
    ) -> None:
        self._av = import_av()
        self.path = Path(path)
        check_writable(self.path.with_suffix(self.path.suffix.lower()), self.SUFFIXES)
        if not 0 < fps < math.inf:
            raise InputError(f'fps must be positive, got {fps}')
        self._rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        self._options = {'preset': preset, 'crf': str(crf)}
        self._opened = ExitStack()  # the temporary file
        self._container: Any = None
        self._last = -1  # time stamp of the last picture, in ticks
        self._packets = 0
        self._closed = self._scales = False
        self.count = 0

    def write(self, picture: np.ndarray, time: float | None = None) -> None:
        """Adds a picture.

        Args:
            picture: BGR (h, w, 3) uint8. A picture of another size than the first is scaled.
            time: Time from the start of the video, s; larger than before. By default the time of
                this picture at the nominal rate.

        Raises:
            InputError: If an earlier or this picture cannot be encoded, or the disk is full.
        """
        if self._closed:
            raise ValueError(f'video {self.path} is closed')
        if self._container is None:
            self._start(picture)
        height, width = self._shape
        if picture.shape[:2] != (height, width):
            if not self._scales:
                logger.warning(
                    'video %s: frames of other sizes are scaled to the first', self.path.absolute()
                )
            self._scales = True
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        if height % 2 or width % 2:
            border = (0, height % 2, 0, width % 2)
            picture = cv2.copyMakeBorder(picture, *border, cv2.BORDER_REPLICATE)
        shared = self._av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), 'bgr24')
        frame = shared.reformat(format='yuv420p', dst_colorspace='ITU709', threads=1)  # a copy
        seconds = self.count / self._rate if time is None else time
        frame.pts = self._last = max(round(seconds * TICKS), self._last + 1)
        frame.time_base = Fraction(1, TICKS)
        self._encoder.put(frame)
        self.count += 1

    def _start(self, picture: np.ndarray) -> None:
        """Opens the temporary file for pictures of this size."""
        self._shape = height, width = picture.shape[:2]
        self._temporary = self._opened.enter_context(atomic_path(self.path))
        self._is_mp4 = self.path.suffix.lower() != '.mkv'
        try:
            container = self._av.open(
                str(self._temporary), 'w', options=FRAGMENTED if self._is_mp4 else AT_ONCE
            )
            name = _encoder_name(self._av)
            options = self._options if name == 'libx264' else {}
            self._stream = container.add_stream(name, rate=self._rate, options=options)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = 'yuv420p'
            context = self._stream.codec_context
            context.time_base = Fraction(1, TICKS)
            context.gop_size = max(12, round(2 * self._rate))  # players can jump every 2 s
            context.max_b_frames = 0  # the first picture stays at its time
            # Colors of HD video; untagged ones are shown differently by different players.
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # 16..235
            self._stream.thread_type = 'AUTO'
            context.open()
        except Exception as error:
            self._opened.__exit__(type(error), error, None)  # removes the temporary file
            raise self._failure(f'{width} x {height} px: {error}') from error
        self._container = container
        self._encoder = WriteBehind(self._encode, size=4)

    def _encode(self, frame: Any) -> None:
        try:
            packets = self._stream.encode(frame)  # None: what the encoder holds back
            self._container.mux(packets)
            self._packets += len(packets)
        except (self._av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, reason: Any) -> InputError:
        return InputError(f'video {self.path.absolute()} cannot be written: {reason}')

    def close(self) -> Path | None:
        """Finishes the video, with all pictures so far.

        Returns:
            Path of the video, or None if there was no picture, and so no file.

        Raises:
            InputError: If a picture could not be encoded, or the disk is full. The pictures before
                it are in the file, if that was possible.
        """
        if self._container is None or self._closed:
            return self.path if self.count else None
        self._closed = True
        failure = None
        with self._opened:  # at its end the file takes its path
            try:
                self._encoder.put(None)
                self._encoder.close()
            except InputError as error:
                failure = error
            with suppress(self._av.FFmpegError, OSError):  # what is written can be played anyway
                self._container.close()
                if self._is_mp4:
                    _move_index_to_front(self._av, self._temporary)
            if not self._packets:
                self._temporary.unlink(missing_ok=True)
        if failure is not None:
            raise failure
        return self.path

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _move_index_to_front(av: ModuleType, path: Path) -> None:
    """Turns a fragmented file into a plain one that a browser plays while it loads."""
    plain = path.with_name(f'plain{path.suffix}')
    try:
        with av.open(str(path)) as given, av.open(str(plain), 'w', options=FAST_START) as made:
            stream = given.streams.video[0]
            copy = made.add_stream_from_template(stream)
            for packet in given.demux(stream):
                if packet.dts is not None:  # the last one is empty
                    packet.stream = copy
                    made.mux(packet)
        os.replace(plain, path)
    finally:
        plain.unlink(missing_ok=True)


def _encoder_name(av: ModuleType) -> str:
    """Returns the best encoder that PyAV was built with."""
    for name in ENCODERS:
        with suppress(av.codec.codec.UnknownCodecError):
            av.codec.Codec(name, 'w')
            if name != ENCODERS[0]:
                logger.warning('PyAV has no %s: videos are written with %s', ENCODERS[0], name)
            return name
    raise InputError(f'this PyAV has no video encoder ({", ".join(ENCODERS)}): pip install av')


def import_av() -> ModuleType:
    """Imports PyAV.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            "PyAV, which reads and writes videos, is not installed: pip install 'kapao-mm[video]'"
        ) from error
    return av


def check_file(path: str | Path) -> None:
    """Checks that a file exists, can be read, and is not empty.

    Raises:
        InputError: If not, or if it is a folder or a pipe, which would be waited for.
    """
    path = Path(path).absolute()
    try:
        if not os.path.exists(path):
            raise InputError(f'video {path} does not exist')
        if not path.is_file():
            raise InputError(f'video {path} cannot be read: it is not a file')
        with path.open('rb') as opened:
            if not opened.read(1):
                raise InputError(f'video {path} is empty')
    except OSError as error:
        raise InputError(f'video {path} cannot be read: {error.strerror}') from error
