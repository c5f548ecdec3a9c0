# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures that every test may use."""

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mmengine.logging import MMLogger

from kapao_mm import register_all_modules
from kapao_mm.structures import InferenceSettings

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / 'shared'  # golden data and real images, kept outside the project


@pytest.fixture(scope='session', autouse=True)
def _registered() -> None:
    register_all_modules()


@pytest.fixture(scope='session')
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope='session')
def tiny_config(repo, tmp_path_factory) -> Path:
    """The config of a narrow KAPAO-N with a network input of 64 px."""
    widths = [32, 64, 96, 128]
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(
        f"_base_ = '{repo}/configs/kapao/kapao_n_coco.py'\n"
        f'model = dict(backbone=dict(widen_factor=0.125), neck=dict(in_channels={widths}), '
        f'head=dict(in_channels={widths}))\n'
        'from kapao_mm.utils.config import set_everywhere\n'
        'set_everywhere(_base_, input_size=64)\n'
    )
    return path


@pytest.fixture(scope='session')
def load_file(repo) -> Callable[[str], ModuleType]:
    """Makes a function that runs a file outside the package, by its path in the repository."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, repo / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope='session')
def oracles(load_file) -> ModuleType:
    """Slow, literal versions of algorithms."""
    return load_file('tests/oracles.py')


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """The folder of golden data and real images; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip('the folder `shared` (golden data, real images) is not beside the checkout')
    return SHARED


@pytest.fixture
def inference_settings() -> Callable[..., InferenceSettings]:
    """Makes inference settings with changes."""
    base = InferenceSettings(
        pose_score_thr=0.1,
        pose_iou_thr=0.65,
        keypoint_score_thr=0.2,
        keypoint_iou_thr=0.25,
        fusion_score_thr=0.3,
        fusion_distance=50,
        max_candidates=30000,
        max_objects=300,
    )
    return partial(replace, base)


@pytest.fixture
def log(caplog) -> Iterator[pytest.LogCaptureFixture]:
    """What MMEngine's current logger was told."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


class Server(ThreadingHTTPServer):
    """Serves a folder on this machine, and notes what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked = []
        super().__init__(('127.0.0.1', 0), partial(Handler, directory=str(folder)))

    def url(self, name: str) -> str:
        """The URL of a file in the folder."""
        return f'http://127.0.0.1:{self.server_port}/{name}'


class Handler(SimpleHTTPRequestHandler):
    """Answers requests without a log."""

    def log_message(self, format: str, *args: object) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def served(tmp_path_factory, monkeypatch) -> Iterator[tuple[Path, Server]]:
    """A folder, and the server of its files; downloads go to a folder of the test."""
    folder = tmp_path_factory.mktemp('served')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path_factory.mktemp('torch')))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, server
        server.shutdown()


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
