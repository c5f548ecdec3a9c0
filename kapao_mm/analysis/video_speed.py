# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Compares the speed of predicting a video with that of the network alone, and watches memory."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kapao_mm.apis import load_predictor
from kapao_mm.apis.predict_files import predict_files
from kapao_mm.apis.predictor import Options, Predictor
from kapao_mm.errors import InputError
from kapao_mm.media.inputs import open_inputs

from .report import live_table
from .timing import WARM_UP, describe_machine, memory

NETWORK_SECONDS = 10.0  # of each of the two measurements of the network


def benchmark(
    models: Sequence[str],
    video: str,
    amp: bool,
    batch_size: int,
    input_size: int | None,
    threads: int | None,
    repeat: int,
    write: Sequence[str],
    track: bool,
) -> tuple[dict[str, Any], None]:
    """Predicts a video with each model, and prints a table.

    The network alone is measured before and after the video, with the same network input.

    Args:
        models: Checkpoints with their configs inside, and exported models.
        video: Path of the video.
        amp: Whether to compute in half precision.
        batch_size: Frames of a batch.
        input_size: Longer side of the network input, px. None takes that of the model.
        threads: Number of CPU threads. None leaves the choice to the library.
        repeat: How often the video is predicted.
        write: Formats that are written, see :data:`FORMATS`.
        track: Whether to follow people.

    Returns:
        The figures, and None for the plot.

    Raises:
        InputError: If a model or the video cannot be read, or results of the first and the last
            time differ.
    """
    machine = describe_machine('cv2', 'av', 'onnxruntime', 'openvino')
    print(f'{machine}\n{video}, {repeat} times, batches of {batch_size}\n')
    columns = ('model', 'network input', 'frames', 'network alone, frames/s')
    more = (
        'video, frames/s',
        'ratio',
        'where the time went',
        'memory after 1/10, MB',
        'at the end',
    )
    rows = []
    with live_table(*columns, *more) as add:
        for model in models:
            predictor = load_predictor(model, amp=amp, threads=threads)
            options = predictor.options(batch_size=batch_size, input_size=input_size, track=track)
            row = dict(model=Path(model).name, **_measure(predictor, options, video, repeat, write))
            rows.append(row)
            add(
                row['model'],
                'x'.join(map(str, row['input_shape'])),
                str(row['frames']),
                f'{row["network_fps"]:.2f}',
                f'{row["video_fps"]:.2f}',
                f'{row["ratio"]:.2f}',
                row['parts'],
                f'{row["memory_early"] / 1e6:.0f}',
                f'{row["memory_end"] / 1e6:.0f}',
            )
    return dict(machine=machine, video=video, rows=rows), None


def _measure(
    predictor: Predictor, options: Options, video: str, repeat: int, write: Sequence[str]
) -> dict[str, Any]:
    """Measures a model, see :func:`benchmark`."""
    batch = _network_inputs(predictor, options, video)
    sources = open_inputs([video] * repeat)
    total = sum(source.total or 0 for source in sources)
    watch = _Watch(predictor, early=max(1, total // (10 * options.batch_size)))
    before = _network_speed(predictor, batch, options)
    with tempfile.TemporaryDirectory() as folder:
        watch.start()
        counts = predict_files(predictor, sources, options, Path(folder), write)
        watch.stop()
    if counts.errors or counts.interrupted:
        raise InputError(f'{video} was not predicted to its end')
    if repeat > 1 and not watch.first_and_last_are_equal(counts.done // repeat):
        raise InputError(f'{video} has other results the last time than the first time')
    after = _network_speed(predictor, batch, options)
    network, speed = (before + after) / 2, counts.done / counts.total
    return dict(
        input_shape=batch.shape[1:3],
        frames=counts.done,
        network_fps=network,
        video_fps=speed,
        ratio=speed / network,
        parts=counts.summary().partition(': ')[2],
        memory_early=watch.memory_early,
        memory_end=watch.memory_end,
    )


class _Watch:
    """Notes memory and detections while a predictor runs."""

    def __init__(self, predictor: Predictor, early: int) -> None:
        self.predictor, self.early = predictor, early
        self.detections: list[list] = []

    def start(self) -> None:
        """Replaces the network by one that is watched."""
        network = self.predictor.run_network

        def watched(batch: np.ndarray, *settings: Any) -> list:
            found = network(batch, *settings)
            self.detections.append([image.pose_objects.keypoints.sum() for image in found])
            if len(self.detections) == self.early:
                self.memory_early = memory('VmRSS')
            return found

        self.predictor.run_network = watched

    def stop(self) -> None:
        """Gives the predictor its network back."""
        self.memory_end = memory('VmRSS')
        del self.predictor.run_network

    def first_and_last_are_equal(self, frames: int) -> bool:
        """Returns whether the first and the last frames of this number have equal detections."""
        sums = np.concatenate(self.detections)
        return np.array_equal(sums[:frames], sums[-frames:])


def _network_inputs(predictor: Predictor, options: Options, video: str) -> np.ndarray:
    """Returns a batch of the first frame, (N, H, W, 3) uint8."""
    frame = next(iter(open_inputs(video)[0]))
    if isinstance(frame, InputError):
        raise frame
    return np.stack([predictor.prepare(frame, options.input_size).pixels] * options.batch_size)


def _network_speed(predictor: Predictor, batch: np.ndarray, options: Options) -> float:
    """Returns the frames per second of the network and suppression alone."""
    for _ in range(WARM_UP):
        predictor.run_network(batch, options.settings)
    start, runs = time.perf_counter(), 0
    while time.perf_counter() < start + NETWORK_SECONDS:
        predictor.run_network(batch, options.settings)
        runs += 1
    return runs * len(batch) / (time.perf_counter() - start)
