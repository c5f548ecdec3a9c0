# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures for videos."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


def four_colors(width: int = 64, height: int = 48) -> np.ndarray:
    """A picture whose quarters are blue, green, red and white, BGR."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2] = 255, 0, 0
    picture[: height // 2, width // 2 :] = 0, 255, 0
    picture[height // 2 :, : width // 2] = 0, 0, 255
    return picture


@pytest.fixture
def picture() -> np.ndarray:
    return four_colors()


@pytest.fixture
def make_video(tmp_path) -> Callable[..., Path]:
    """Makes a function that writes a video with PyAV alone, and returns its path."""
    av = pytest.importorskip('av')

    def make(
        name: str = 'video.mp4',
        frames: int = 5,
        size: tuple[int, int] = (64, 48),
        times: Sequence[float] | None = None,
        codec: str = 'libx264',
        pix_fmt: str = 'yuv420p',
        turned: tuple[int, bool] | None = None,
        ratio: Fraction | None = None,
        movflags: str | None = '+faststart',
        streams: int = 1,
    ) -> Path:
        """Writes frames of four colors at 25 frames/s, or at the times (s).

        ``turned`` is the counterclockwise rotation, and whether the turned picture is mirrored.
        """
        path = tmp_path / name
        times = np.arange(frames) / 25 if times is None else times
        options = {'movflags': movflags} if movflags and path.suffix in ('.mp4', '.mov') else {}
        with av.open(str(path), 'w', options=options) as container:
            for _ in range(streams):
                stream = container.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
                stream.codec_context.time_base = Fraction(1, 1000)
                stream.codec_context.gop_size = 5
                if ratio is not None:
                    stream.codec_context.sample_aspect_ratio = ratio
                if turned is not None:
                    if not hasattr(stream, 'set_display_rotation'):
                        pytest.skip('PyAV before 18 does not write rotations')
                    stream.set_display_rotation(turned[0], hflip=turned[1])
            for time in times:
                for stream in container.streams.video:
                    frame = av.VideoFrame.from_ndarray(four_colors(*size), format='bgr24')
                    frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                    frame.duration = 40
                    container.mux(stream.encode(frame))
            for stream in container.streams.video:
                container.mux(stream.encode())
        return path

    return make
