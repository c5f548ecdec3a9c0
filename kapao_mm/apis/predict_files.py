# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts sources and writes what was found: pictures, videos, JSON and tables.

Reading, the network, and drawing with writing run side by side in three threads.
"""

import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kapao_mm.errors import InputError
from kapao_mm.functional.drawing import DEFAULT_LAYERS
from kapao_mm.functional.drawing_style import Layers
from kapao_mm.media.inputs import Source
from kapao_mm.media.read_ahead import WriteBehind
from kapao_mm.media.video import USUAL_FPS, VideoWriter
from kapao_mm.structures import Metainfo
from kapao_mm.utils.atomic_file import atomic_path, check_folder
from kapao_mm.utils.image_files import OutputNames, write_picture

from .predictor import Options, Predictor
from .result import Result
from .writers import TABLE_NAMES, TABLES, ResultWriter, VideoJSONWriter

FORMATS = ('pictures', 'json', *TABLES)
WAITING = 4  # results that wait to be drawn and written
WINDOW = 'KAPAO'  # title


@dataclass
class Counts:
    """Counts and times of a run.

    Attributes:
        done: Number of predicted images and frames.
        errors: Number of images and videos that failed.
        seconds: Time by part, see :meth:`Predictor.run`; and ``drawing and writing``, the time
            that the network waited for them.
        total: Time of the whole run, s.
        interrupted: Whether the run was stopped with Ctrl-C.
    """

    done: int = 0
    errors: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    total: float = 0.0
    interrupted: bool = False

    def summary(self) -> str:
        """Returns a line of speed, and of where the time went."""
        if not self.done:
            return 'nothing was predicted'
        parts = [f'{name} {100 * s / self.total:.0f} %' for name, s in self.seconds.items()]
        speed = self.done / self.total
        return f'{self.done} images in {self.total:.1f} s, {speed:.1f} per second: ' + ', '.join(
            parts
        )


def predict_files(
    predictor: Predictor,
    sources: Sequence[Source],
    options: Options,
    folder: Path,
    formats: Sequence[str] = ('pictures', 'json'),
    layers: Layers = DEFAULT_LAYERS,
    show: bool = False,
) -> Counts:
    """Predicts sources, and writes results as they come.

    An image that cannot be predicted is reported and does not stop the others. After Ctrl-C all
    files are complete up to there.

    Args:
        predictor: Model.
        sources: From :func:`open_inputs`.
        options: From :meth:`Predictor.options`.
        folder: Folder of the results.
        formats: Some of :data:`FORMATS`. ``pictures`` are images, or a video of a video; ``json``
            is a file for each image or video; the others are a file for all together.
        layers: What is drawn.
        show: Whether to show pictures in a window; the key q or Esc ends the run.

    Raises:
        InputError: If the folder cannot be written to or has the images themselves, or there is no
            display to show pictures on.
    """
    check_folder(folder)
    if show:
        _check_display()
    counts, start = Counts(), time.perf_counter()
    try:
        with _progress() as progress, ExitStack() as stack:
            shared = _Shared(
                folder, formats, layers, show, predictor.metainfo, progress.console, counts
            )
            for name in filter(TABLES.get, formats):
                writer = TABLES[name](folder / TABLE_NAMES[name])
                shared.tables.append(stack.enter_context(writer))
            for source in sources:
                try:
                    task = progress.add_task(source.name, total=source.total)
                    for _ in _predict_source(predictor, source, options, shared):
                        progress.advance(task)
                    progress.remove_task(task)
                except InputError as error:  # the next source may be better
                    shared.fail(str(error))
    except KeyboardInterrupt:
        counts.interrupted = True
    counts.total = time.perf_counter() - start
    return counts


@dataclass
class _Shared:
    """Holds what the outputs of all sources share."""

    folder: Path
    formats: Sequence[str]
    layers: Layers
    show: bool
    metainfo: Metainfo
    console: Console
    counts: Counts
    tables: list[ResultWriter] = field(default_factory=list)
    names: OutputNames = field(default_factory=OutputNames)

    def fail(self, text: str) -> None:
        """Prints and counts an error."""
        self.counts.errors += 1
        self.say(f'error: {text}', error=True)

    def say(self, text: str, error: bool = False) -> None:
        """Prints a line; characters that the terminal cannot show are escaped."""
        file = sys.stderr if error else sys.stdout
        encoding = getattr(file, 'encoding', None) or 'utf-8'
        text = text.encode(encoding, 'backslashreplace').decode(encoding)
        if error:
            print(text, file=file, flush=True)
        else:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _predict_source(
    predictor: Predictor, source: Source, options: Options, shared: _Shared
) -> Iterator[None]:
    """Predicts and writes a source; yields after each image."""
    counts = shared.counts
    output = _Pictures(shared) if source.kind == 'images' else _Video(source, shared)
    with closing(output), WriteBehind(output.write, WAITING) as writing:
        for result in predictor.run(source, options, counts.seconds):
            if isinstance(result, InputError):
                shared.fail(str(result))
            else:
                counts.done += 1
                start = time.perf_counter()
                if shared.show:  # windows belong to the main thread
                    picture = output.write(result)
                    if picture is not None:  # None: it cannot be written, which was reported
                        _show(picture)
                else:
                    writing.put(result)
                counts.seconds['drawing and writing'] += time.perf_counter() - start
            yield


class _Pictures:
    """Writes a picture and a JSON file for each image."""

    def __init__(self, shared: _Shared) -> None:
        self.shared = shared

    def close(self) -> None:
        """Does nothing: each file is complete when it is written."""

    def write(self, result: Result) -> np.ndarray | None:
        """Writes the files of an image, and prints what was found in it, or its error."""
        try:
            return self._write(result)
        except (InputError, cv2.error, MemoryError) as error:
            self.shared.fail(_describe(error, result.name))
            return None

    def _write(self, result: Result) -> np.ndarray | None:
        shared, places = self.shared, []
        _check_place(shared.folder, result.name)
        stem = shared.folder / shared.names(Path(result.name).stem, result.name)
        picture = None
        if 'pictures' in shared.formats or shared.show:
            picture = result.plot(**vars(shared.layers))
        if 'pictures' in shared.formats:
            places.append(write_picture(picture, Path(f'{stem}.jpg')))
        if 'json' in shared.formats:
            places.append(Path(f'{stem}.json'))
            with atomic_path(places[-1]) as temporary:
                temporary.write_text(result.to_json())
        for table in shared.tables:
            table.write(result)
        shared.say(f'{result.name}: {result.summary()}' + _arrow(*places[:1]))
        return picture


class _Video:
    """Writes a video with the poses drawn into it, and a JSON file of all frames."""

    def __init__(self, source: Source, shared: _Shared) -> None:
        self.source, self.shared = source, shared
        _check_place(shared.folder, source.name)
        stem = re.sub(r'[^\w.-]+', '_', Path(source.name).stem)  # a URL may have any character
        self.stem = shared.folder / shared.names(stem or 'stream', source.name)
        self.frames = self.poses = 0
        self.video: VideoWriter | None = None
        self.json: VideoJSONWriter | None = None

    def _begin(self) -> None:
        """Opens the files, once there is a frame."""
        if 'pictures' in self.shared.formats:
            self.video = VideoWriter(Path(f'{self.stem}.mp4'), self.source.fps or USUAL_FPS)
        if 'json' in self.shared.formats:
            self.json = VideoJSONWriter(
                Path(f'{self.stem}.json'), self.source.name, self.source, self.shared.metainfo
            )

    def close(self) -> None:
        """Completes the files, and prints what was found."""
        for writer in filter(None, (self.video, self.json)):
            writer.close()
        if self.frames:
            places = [writer.path for writer in (self.video, self.json) if writer]
            found = f'{self.frames} frames, {self.poses} poses'
            self.shared.say(f'{self.source.name}: {found}' + _arrow(*places[:1]))

    def write(self, result: Result) -> np.ndarray | None:
        """Writes a frame."""
        shared, picture = self.shared, None
        if not self.frames:
            self._begin()
        if 'pictures' in shared.formats or shared.show:
            picture = result.plot(**vars(shared.layers))
        if 'pictures' in shared.formats:
            self.video.write(picture, result.time)
        for writer in filter(None, (self.json, *shared.tables)):
            writer.write(result)
        self.frames += 1
        self.poses += len(result)
        return picture


def _arrow(*places: Path) -> str:
    return ''.join(f' -> {place}' for place in places)


def _describe(error: Exception, name: str) -> str:
    if isinstance(error, InputError):
        return str(error)
    reason = ' '.join(str(error).split()) or type(error).__name__
    return f'image {name} cannot be predicted: {reason}'


def _check_place(folder: Path, source: str) -> None:
    """Raises InputError if a source is in the folder of the results."""
    if os.path.exists(source) and os.path.realpath(folder) == os.path.dirname(
        os.path.realpath(source)
    ):
        raise InputError(
            f'{source} is in the folder of the results, {folder}: write them to another folder'
        )


def _progress() -> Progress:
    return Progress(
        TextColumn('{task.description}', markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.speed:.1f}/s'),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not sys.stdout.isatty(),
    )


def _check_display() -> None:
    """Raises InputError if no window can be opened.

    OpenCV ends the process on Linux if it is built with Qt and there is no display.
    """
    windowless = sys.platform == 'linux' and not {'DISPLAY', 'WAYLAND_DISPLAY'} & set(os.environ)
    try:
        if not windowless:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error:  # of opencv-python-headless
        windowless = True
    if windowless:
        raise InputError(
            'pictures cannot be shown: there is no display, or this OpenCV was built without '
            'windows (opencv-python-headless)'
        )


def _show(picture: np.ndarray) -> None:
    """Shows a picture in a window; the key q or Esc ends the run."""
    cv2.imshow(WINDOW, picture)
    if cv2.waitKey(1) in (ord('q'), 27):
        raise KeyboardInterrupt
