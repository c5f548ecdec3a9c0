# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts images, videos and streams; shared by the inferencer and the runtime without torch."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import Letterbox, letterbox, resize_and_pad
from kapao_mm.functional.postprocess import filter_detections, predict_from_letterbox
from kapao_mm.media.inputs import Frame, Source, open_inputs
from kapao_mm.media.read_ahead import ReadAhead
from kapao_mm.structures import Detections, InferenceSettings, Metainfo

from .result import Result
from .tracking import Tracker

BATCHES_AHEAD = 2  # batches that are read while the network computes
IMAGES_PER_SECOND = 30  # of a folder of images that is tracked

T = TypeVar('T')

logger = logging.getLogger('kapao_mm')


@dataclass(frozen=True)
class Options:
    """What a call of :meth:`Predictor.predict` asks for; made by :meth:`Predictor.options`.

    Attributes:
        settings: Inference settings.
        categories: Labels of the categories that are kept. None keeps all.
        input_size: Longer side of the network input, px.
        batch_size: Number of images that are read at once.
        track: Whether to follow people from frame to frame.
        smooth: Whether to smooth the keypoints of tracked people over time.
    """

    settings: InferenceSettings
    categories: list[int] | None
    input_size: int
    batch_size: int
    track: bool
    smooth: bool


class Input(NamedTuple):
    """An image and what the network sees of it.

    Attributes:
        frame: The image.
        pixels: Network input, BGR (H, W, 3) uint8.
        lb: Letterbox of the image.
    """

    frame: Frame
    pixels: np.ndarray
    lb: Letterbox


class Predictor:
    """Predicts poses in images, videos and streams.

    A derived class has the network, :meth:`run_network`, and sets the attributes.

    Attributes:
        metainfo: Names, skeleton and colors.
        settings: Inference settings that apply unless a call gives others.
        input_size: Longer side of the network input, px.
        square_input: Whether images are padded to squares instead of multiples of 64 px.
    """

    metainfo: Metainfo
    settings: InferenceSettings
    input_size: int
    square_input: bool

    def run_network(self, batch: np.ndarray, settings: InferenceSettings) -> list[Detections]:
        """Detects the objects of a batch.

        Args:
            batch: Network inputs, BGR (N, H, W, 3) uint8.
            settings: Thresholds and limits.

        Returns:
            The kept objects of each image, in px of the network input.
        """
        raise NotImplementedError

    def predict(
        self,
        inputs: Any,
        *,
        stream: bool = False,
        every: int = 1,
        fps: float | None = None,
        **options: Any,
    ) -> list[Result] | Iterator[Result]:
        """Predicts the poses of images, videos and streams.

        If a folder or pattern has images that cannot be read, they are logged and left out, and
        their number is logged at the end.

        Args:
            inputs: Path or URL of an image or a video, folder, pattern, number of a camera, URL of
                a stream, numpy array, PIL image, or a list or generator of these, see
                :func:`open_inputs`. Arrays are BGR, as OpenCV reads them, see :func:`as_bgr`.
            stream: Whether to return a generator, which holds one batch at a time, instead of a
                list. Use it for videos, and wherever the results do not fit into memory.
            every: Predict every n-th frame of a video.
            fps: Predict about this many frames of each second of a video.
            **options: Options of the prediction, see :meth:`options`.

        Returns:
            A result for each image or frame in order.

        Raises:
            InputError: If an option is wrong, or an input does not exist or cannot be read.
        """
        chosen = self.options(**options)
        sources = open_inputs(inputs, every=every, fps=fps)
        results = self._predict(sources, chosen, skip=isinstance(inputs, str | Path))
        return results if stream else list(results)

    def track(self, inputs: Any, **options: Any) -> list[Result] | Iterator[Result]:
        """Predicts a video and follows people from frame to frame.

        The results have ``track_ids``. All else is as in :meth:`predict`.
        """
        return self.predict(inputs, track=True, **options)

    def options(
        self,
        *,
        batch_size: int = 1,
        track: bool = False,
        smooth: bool = False,
        categories: Sequence[str] | str | None = None,
        input_size: int | None = None,
        **settings: float,
    ) -> Options:
        """Checks and completes the options of a prediction.

        Args:
            batch_size: Number of images that are read at once. Those whose network inputs have the
                same shape are predicted as one batch.
            track: Whether to follow people from frame to frame.
            smooth: Whether to smooth the keypoints of tracked people over time.
            categories: Names of the categories to keep. The default is all.
            input_size: Longer side of the network input, px, a multiple of 64. The default is that
                of the model.
            **settings: Fields of :class:`InferenceSettings`, such as ``pose_score_thr=0.5``. The
                default is the value of the model.

        Raises:
            InputError: If an option is unknown or has no valid value.
        """
        if batch_size < 1:
            raise InputError(f'batch_size must be at least 1, got {batch_size}')
        if smooth and not track:
            raise InputError('smooth needs track: only tracked people can be smoothed over time')
        size = self.input_size if input_size is None else input_size
        letterbox((1, 1), size)  # raises for a wrong size
        names = [categories] if isinstance(categories, str) else categories
        return Options(
            self.change_settings(**settings),
            None if names is None else self._labels(names),
            size,
            batch_size,
            track,
            smooth,
        )

    def change_settings(self, **changes: float) -> InferenceSettings:
        """Returns the inference settings with some changed, see :meth:`InferenceSettings.changed`.

        Raises:
            InputError: If a setting is unknown, has no valid value, or cannot be changed.
        """
        return self.settings.changed(**changes)

    def run(
        self, source: Source, options: Options, seconds: dict[str, float] | None = None
    ) -> Iterator[Result | InputError]:
        """Predicts the images of a source, and passes on the errors of those without a result.

        Images are read and resized in a thread of their own, while the network computes.

        Args:
            source: Images, a video or a stream.
            options: From :meth:`options`.
            seconds: Dict in which times are summed up: ``network``, ``poses`` (mapping, fusion
                and tracking) and ``reading``, the wait for images.
        """
        seconds = defaultdict(float) if seconds is None else seconds
        tracker = (
            Tracker(self.metainfo, source.fps or IMAGES_PER_SECOND, options.smooth)
            if options.track
            else None
        )
        items = (self.prepare(item, options.input_size) for item in source)
        newest = source.kind == 'live' and options.batch_size == 1
        with ReadAhead(items, BATCHES_AHEAD * options.batch_size, newest) as ahead:
            while batch := _timed(seconds, 'reading', list, islice(ahead, options.batch_size)):
                yield from self._predict_batch(batch, options, tracker, seconds)
            if ahead.dropped:
                logger.warning(
                    '%s: %d frames came too fast and were left out', source.name, ahead.dropped
                )

    def detect(
        self, images: Sequence[np.ndarray], options: Options
    ) -> list[tuple[Detections, Letterbox]]:
        """Detects the objects of images, for :meth:`finish`.

        Args:
            images: Images, BGR (h, w, 3) uint8.
            options: From :meth:`options`. Categories have no effect yet.
        """
        frames = [Frame(image, '', None) for image in images]
        inputs = [self.prepare(frame, options.input_size) for frame in frames]
        detections = self._detect(inputs, options.settings)
        return [(found, item.lb) for found, item in zip(detections, inputs, strict=True)]

    def finish(
        self, detections: Detections, lb: Letterbox, frame: Frame, options: Options
    ) -> Result:
        """Makes the result of an image from its objects, without the network.

        Args:
            detections: Kept objects of the image, in px of the network input.
            lb: Letterbox of the image.
            frame: The image.
            options: From :meth:`options`. Score thresholds may be above those of the detection.
        """
        counts = self.metainfo.keypoint_counts
        kept = filter_detections(detections, options.settings, counts, options.categories)
        prediction = predict_from_letterbox(kept, lb, counts, options.settings)
        return Result(prediction, frame.pixels, frame.name, self.metainfo, frame.frame, frame.time)

    def _predict(self, sources: Iterable[Source], options: Options, skip: bool) -> Iterator[Result]:
        """Yields the results of all sources, see :func:`without_errors`."""
        found = chain.from_iterable(self.run(source, options) for source in sources)
        yield from without_errors(found, skip)

    def prepare(self, item: Frame | InputError, input_size: int) -> Input | InputError:
        """Resizes and pads an image to the network input, and passes on an error.

        Args:
            item: The image, or the error of one that cannot be read.
            input_size: Longer side of the network input, px.
        """
        if isinstance(item, InputError):
            return item
        lb = letterbox(item.pixels.shape[1::-1], input_size, square=self.square_input)
        return Input(item, resize_and_pad(item.pixels, lb), lb)

    def _predict_batch(
        self,
        batch: list[Input | InputError],
        options: Options,
        tracker: Tracker | None,
        seconds: dict[str, float],
    ) -> Iterator[Result | InputError]:
        """Yields the results of a batch in order, with the errors in their places."""
        inputs = [item for item in batch if isinstance(item, Input)]
        found = iter(_timed(seconds, 'network', self._detect, inputs, options.settings))
        for item in batch:
            if isinstance(item, InputError):
                yield item
            else:
                yield _timed(seconds, 'poses', self._result, next(found), item, options, tracker)

    def _detect(self, inputs: Sequence[Input], settings: InferenceSettings) -> list[Detections]:
        """Runs the network, with one batch for each shape of the network input."""
        images = [item.pixels for item in inputs]
        return run_by_shape(images, lambda batch: self.run_network(np.stack(batch), settings))

    def _result(
        self, detections: Detections, item: Input, options: Options, tracker: Tracker | None
    ) -> Result:
        result = self.finish(detections, item.lb, item.frame, options)
        if tracker is None:
            return result
        return replace(result, prediction=tracker.update(result.prediction, item.frame.time))

    def _labels(self, names: Sequence[str]) -> list[int]:
        known = self.metainfo.category_names
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(f'the model has no category {unknown[0]!r}, only {", ".join(known)}')
        return [known.index(name) for name in names]


def run_by_shape(
    images: Sequence[T], run: Callable[[list], Sequence], shape: Callable[[T], tuple] = np.shape
) -> list:
    """Calls a function once for the images of each shape.

    Args:
        images: Images of any kind.
        run: Function that takes images of one shape, and returns something for each.
        shape: Function that returns the shape of an image.

    Returns:
        What the calls returned for each image, in the order of the images.
    """
    by_shape = defaultdict(list)
    for index, image in enumerate(images):
        by_shape[shape(image)].append(index)
    found = {}
    for indices in by_shape.values():
        found.update(zip(indices, run([images[i] for i in indices]), strict=True))
    return [found[index] for index in range(len(images))]


def without_errors(items: Iterable[T | InputError], skip: bool) -> Iterator[T]:
    """Yields items, and raises the first error among them.

    Args:
        items: Images or results, and errors in the places of those that could not be read.
        skip: Whether to log and count errors instead. If there is nothing else, the first is
            raised at the end.

    Raises:
        InputError: One of those among the items.
    """
    count, errors = 0, []
    for item in items:
        count += 1
        if not isinstance(item, InputError):
            yield item
        elif not skip:
            raise item
        else:
            logger.warning(str(item))
            errors.append(item)
    if errors and len(errors) == count:
        raise errors[0]
    if errors:
        logger.warning('%d of %d images could not be predicted', len(errors), count)


def _timed(seconds: dict[str, float], name: str, function: Any, *args: Any) -> Any:
    """Calls a function and adds its time to ``seconds[name]``."""
    start = time.perf_counter()
    result = function(*args)
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return result
