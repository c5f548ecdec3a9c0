# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Does what a visitor of the page in the browser asks for, without knowing the page.

The network runs once for an image, with low score thresholds. Whatever the visitor then changes,
except for IoU thresholds and the size of the network input, is computed from the objects it found.
"""

import itertools
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from kapao_mm.apis.predictor import Options, Predictor
from kapao_mm.apis.result import Result
from kapao_mm.apis.writers import VideoJSONWriter
from kapao_mm.errors import InputError
from kapao_mm.functional.drawing_style import Layers
from kapao_mm.functional.letterbox import Letterbox
from kapao_mm.media.inputs import Frame, open_inputs
from kapao_mm.media.video import VideoWriter
from kapao_mm.structures import Detections, Metainfo
from kapao_mm.utils.image_files import IMAGE_SUFFIXES, decode_image

MB = 2**20
IMAGE_BYTES, VIDEO_BYTES = 20 * MB, 200 * MB
IMAGE_PIXELS = 50_000_000  # of an uploaded image; each visitor's last one stays in memory
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
# How these files begin. Others, such as playlists, could let FFmpeg open further files.
VIDEO_STARTS = re.compile(rb'....(ftyp|moov|mdat|wide|free|skip)|RIFF....AVI |\x1aE\xdf\xa3', re.S)
LOWEST_SCORE = 0.05  # score threshold of the network: thresholds can be lowered to it afterwards
KEPT_RESULTS = 3  # of each visitor, for a browser that still loads an older one
PREVIEW_EVERY = 1.0  # s between the pictures shown while a video is predicted
PREVIEW_SIDE = 960  # px, longer side of these pictures
JPEG_QUALITY = 92


class Detected(NamedTuple):
    """An image and the objects that the network found in it.

    Attributes:
        frame: The image and its name.
        detections: Objects above low score thresholds.
        letterbox: Letterbox of the image.
        network: :func:`network_options` of the run.
        seconds: Time of the run.
    """

    frame: Frame
    detections: Detections
    letterbox: Letterbox
    network: tuple[float, ...]
    seconds: float


@dataclass
class Session:
    """What the server keeps of a visitor until the page is closed.

    Attributes:
        folder: Folder of the results.
        detected: Last image, None before the first.
        stop: Set to end a running video early.
        numbers: Numbers of the results.
    """

    folder: Path
    detected: Detected | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def open(cls, root: Path) -> 'Session':
        """Makes a session with a folder in ``root`` whose name cannot be guessed."""
        folder = root / secrets.token_hex(16)
        folder.mkdir(parents=True)
        return cls(folder)

    def new_folder(self, kind: str) -> Path:
        """Makes a folder for one more result, and removes those of old ones of the same kind."""
        folder = self.folder / kind / f'{next(self.numbers):09d}'
        folder.mkdir(parents=True)
        for old in sorted(folder.parent.iterdir())[:-KEPT_RESULTS]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Stops a running video and removes the results."""
        self.stop.set()
        self.detected = None
        shutil.rmtree(self.folder, ignore_errors=True)


class VideoProgress(NamedTuple):
    """State of a video that is being predicted.

    Attributes:
        done: Number of predicted frames.
        total: Number of all frames, None if unknown.
        poses: Number of poses in all frames so far.
        preview: Path of the picture of the current frame, None at the end.
        video: Path of the finished video, None before the end.
        numbers: Path of the JSON of its frames, None before the end.
        fault: What was wrong with the rest of the video, if something was.
    """

    done: int
    total: int | None
    poses: int
    preview: Path | None = None
    video: Path | None = None
    numbers: Path | None = None
    fault: str = ''


def can_change(predictor: Predictor, **setting: float) -> bool:
    """Returns whether a predictor accepts a setting; some are fixed in exported models."""
    try:
        predictor.change_settings(**setting)
    except InputError:
        return False
    return True


def lowest_score(predictor: Predictor, name: str) -> float:
    """Returns the value down to which a score threshold can be lowered.

    It is :data:`LOWEST_SCORE`, or the predictor's own threshold if that is lower or fixed.
    """
    own = getattr(predictor.settings, name)
    return min(own, LOWEST_SCORE) if can_change(predictor, **{name: LOWEST_SCORE}) else own


def network_options(options: Options) -> tuple[float, ...]:
    """Returns those options whose change needs another run of the network."""
    return options.settings.pose_iou_thr, options.settings.keypoint_iou_thr, options.input_size


def read_upload(path: Path) -> Frame:
    """Reads an uploaded image.

    Raises:
        InputError: If it is not an image, or larger than :data:`IMAGE_BYTES` or
            :data:`IMAGE_PIXELS`.
    """
    _check_file(path, 'image', IMAGE_SUFFIXES, IMAGE_BYTES)
    try:
        with Image.open(path) as image:  # reads the header only
            too_large = image.width * image.height > IMAGE_PIXELS
    except Image.DecompressionBombError:
        too_large = True
    except Exception as error:  # Pillow's readers raise many types
        raise InputError(f'{path.name} cannot be read as an image') from error
    if too_large:
        raise InputError(f'{path.name} has more than {IMAGE_PIXELS:,} px: reduce it')
    return Frame(decode_image(path.read_bytes(), path.name), path.name, path.name)


def detect(predictor: Predictor, frame: Frame, options: Options) -> Detected:
    """Runs the network on an image, with the lowest score thresholds."""
    names = ('pose_score_thr', 'keypoint_score_thr')
    lowest = {name: lowest_score(predictor, name) for name in names}
    low = replace(options, settings=options.settings.changed(**lowest))
    start = time.perf_counter()
    ((detections, letterbox),) = predictor.detect([frame.pixels], low)
    seconds = time.perf_counter() - start
    return Detected(frame, detections, letterbox, network_options(options), seconds)


def finish(predictor: Predictor, detected: Detected, options: Options) -> Result:
    """Applies score thresholds and categories, and fuses, without the network."""
    return predictor.finish(detected.detections, detected.letterbox, detected.frame, options)


def save_result(result: Result, session: Session, layers: Layers) -> tuple[Path, Path]:
    """Writes the picture (JPEG) and the JSON of an image into a new folder of the visitor."""
    folder, stem = session.new_folder('image'), Path(result.name).stem
    picture, numbers = folder / f'{stem}_poses.jpg', folder / f'{stem}_poses.json'
    write_jpeg(result.plot(**vars(layers)), picture)
    numbers.write_text(json.dumps(result.to_dict(), indent=1))
    return picture, numbers


def predict_video(
    predictor: Predictor, path: Path, session: Session, options: Options, layers: Layers
) -> Iterator[VideoProgress]:
    """Predicts an uploaded video until its end or until the visitor stops it.

    Yields:
        The progress, about every :data:`PREVIEW_EVERY` s, and the finished video at the end.

    Raises:
        InputError: If it is not a video, or larger than :data:`VIDEO_BYTES`.
    """
    _check_file(path, 'video', VIDEO_SUFFIXES, VIDEO_BYTES)
    with path.open('rb') as file:
        if not VIDEO_STARTS.match(file.read(16)):
            raise InputError(f'{path.name} cannot be read as a video')
    (source,) = open_inputs(path)
    session.stop.clear()
    folder = session.new_folder('video')
    video, numbers = folder / f'{path.stem}_poses.mp4', folder / f'{path.stem}_poses.json'
    done, poses, fault, last = 0, 0, '', time.monotonic()
    with ExitStack() as stack:
        pictures = stack.enter_context(VideoWriter(video, source.fps))
        frames = stack.enter_context(
            VideoJSONWriter(numbers, path.name, source, predictor.metainfo)
        )
        for result in stack.enter_context(closing(predictor.run(source, options))):
            if isinstance(result, InputError):
                if not done:
                    raise result
                fault = str(result)
                break
            picture = result.plot(**vars(layers))
            pictures.write(picture, result.time)
            frames.write(result)
            done, poses = done + 1, poses + len(result)
            if session.stop.is_set():
                break
            if time.monotonic() - last > PREVIEW_EVERY:
                last = time.monotonic()
                preview = folder / f'{done}.jpg'
                write_jpeg(picture, preview, PREVIEW_SIDE)
                yield VideoProgress(done, source.total, poses, preview)
    if not done:
        raise InputError(f'{path.name} has no frame')
    yield VideoProgress(done, source.total, poses, None, video, numbers, fault)


def write_jpeg(picture: np.ndarray, path: Path, longer_side: int | None = None) -> None:
    """Writes a picture, BGR (h, w, 3) uint8, shrunk to a longer side if one is given, px."""
    if longer_side and (factor := longer_side / max(picture.shape)) < 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(content)


def table_columns(metainfo: Metainfo) -> list[str]:
    """Returns the names of the columns of :func:`table_rows`."""
    category = ['category'] if len(metainfo.categories) > 1 else []
    return ['pose', *category, 'score', 'fused', 'x', 'y', 'width', 'height']


def table_rows(result: Result) -> list[list[Any]]:
    """Returns a row for each pose; positions and sizes of boxes are whole px."""
    rows, names = [], result.metainfo.category_names
    for i, (x1, y1, x2, y2) in enumerate(np.rint(result.boxes).astype(int).tolist()):
        category = [names[result.labels[i]]] if len(names) > 1 else []
        fused = f'{_count(result.keypoints_fused[i])} of {_count(_visible(result)[i])}'
        rows.append([i + 1, *category, f'{result.scores[i]:.2f}', fused, x1, y1, x2 - x1, y2 - y1])
    return rows


def describe(result: Result, seconds: float) -> str:
    """Returns a line of Markdown about what was found in an image.

    Args:
        result: Result of the image.
        seconds: Time of the network.
    """
    objects = f'{len(result.prediction.keypoint_objects.bboxes)} keypoint objects'
    fused = f'{_count(result.keypoints_fused)} of {_count(_visible(result))} keypoints fused'
    poses = {0: '**No pose** above these thresholds', 1: '**1 pose**'}
    found = poses.get(len(result), f'**{len(result)} poses**') + (f', {fused}' * bool(len(result)))
    height, width = result.image.shape[:2]
    return f'{found} · {objects} · {width} × {height} px · network {1000 * seconds:.0f} ms'


def hide_folder(text: str, folder: Path) -> str:
    """Removes a folder from the paths in a message, so that no visitor sees it."""
    return text.replace(f'{folder}/', '')


def _check_file(path: Path, kind: str, suffixes: Sequence[str], limit: int) -> None:
    if path.suffix.lower() not in suffixes:
        raise InputError(f'{path.name} is not one of these types of {kind}: {" ".join(suffixes)}')
    if path.stat().st_size > limit:
        raise InputError(f'{path.name} is larger than {limit // MB} MB: reduce it')


def _visible(result: Result) -> np.ndarray:
    return result.prediction.keypoints_visible


def _count(mask: np.ndarray) -> int:
    return int(mask.sum())
