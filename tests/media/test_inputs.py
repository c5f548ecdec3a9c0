# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import itertools
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from kapao_mm.errors import InputError
from kapao_mm.media import inputs as module
from kapao_mm.media.inputs import Frame, open_inputs


def frames(given, **options) -> list[Frame | InputError]:
    """All that the sources of inputs yield."""
    return [frame for source in open_inputs(given, **options) for frame in source]


def fault(given) -> str:
    """The message of the only thing that the inputs yield."""
    (error,) = frames(given)
    assert isinstance(error, InputError)
    assert '\n' not in str(error)
    return str(error)


@pytest.fixture
def save(tmp_path, picture):
    """Makes a function that writes an image file, whatever its suffix, and returns its path."""

    def save(name: str, kind: str = '.png') -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(kind, picture)[1].tobytes())
        return path

    return save


def test_image_of_a_path_has_its_name_and_no_time(save, picture):
    path = save('a.png')
    (source,) = open_inputs(str(path))
    assert (source.kind, source.total, source.fps) == ('images', 1, None)
    (frame,) = source
    np.testing.assert_array_equal(frame.pixels, picture)
    assert (frame.name, frame.frame, frame.time) == (str(path), None, None)


def test_neighboring_images_are_one_source(save, make_video, picture):
    clip = make_video(frames=3)
    sources = open_inputs([save('a.png'), picture, clip, save('b.png')])
    assert [(source.kind, source.total) for source in sources] == [
        ('images', 2),
        ('video', 3),
        ('images', 1),
    ]


def test_frames_of_a_video_have_numbers_and_times(make_video):
    clip = make_video(frames=4)
    (source,) = open_inputs(clip)
    assert (source.kind, source.size, source.fps, source.total) == ('video', (64, 48), 25, 4)
    for _ in range(2):  # it can be read again
        got = list(source)
        assert [frame.frame for frame in got] == [0, 1, 2, 3]
        assert [round(frame.time, 3) for frame in got] == [0, 0.04, 0.08, 0.12]
        assert {frame.name for frame in got} == {str(clip)}
        assert len({frame.identity for frame in got}) == 4


def test_broken_video_has_no_size_and_yields_its_fault(tmp_path):
    (source,) = open_inputs(tmp_path / 'no.mp4')
    assert source.kind == 'images'  # nothing is known of it
    (tmp_path / 'a.mp4').write_bytes(b'no video')
    (source,) = open_inputs(tmp_path / 'a.mp4')
    assert (source.fps, source.size, source.total, source.duration) == (None,) * 4
    (error,) = source
    assert 'a.mp4 cannot be read' in str(error)


def test_what_is_known_of_a_video_is_known_after_its_end(make_video, monkeypatch):
    (source,) = open_inputs(make_video(frames=3))
    assert len(list(source)) == 3
    monkeypatch.setattr(module, 'VideoReader', None)  # it is not opened again, as a camera would be
    assert (source.fps, source.size, source.total) == (25, (64, 48), 3)


def test_every_and_fps_choose_frames_of_videos_not_images(save, make_video):
    given = [save('a.png'), save('b.png'), make_video(frames=10)]
    assert [f.frame for f in frames(given, every=5)] == [None, None, 0, 5]
    assert [f.frame for f in frames(given, fps=5)] == [None, None, 0, 3, 8]
    with pytest.raises(InputError, match='every must be'):
        open_inputs(given, every=0)


def test_folder_gives_images_then_videos_and_counts_the_rest(save, make_video, tmp_path, caplog):
    for name in ('z.png', 'b.JPG', 'deep/c.png'):
        save(name)
    make_video('a.mp4', frames=1)
    (tmp_path / 'README').touch()
    names = [Path(frame.name).name for frame in frames(tmp_path)]
    assert names == ['b.JPG', 'z.png', 'a.mp4']
    assert caplog.messages == [f'folder {tmp_path}: 2 other files or folders are left out']


def test_pattern_finds_images_and_videos(save, make_video, tmp_path):
    save('deep/c.png')
    make_video('a.mp4', frames=1)
    (tmp_path / 'README').touch()
    found = frames(str(tmp_path / '**/*'))
    assert [Path(frame.name).name for frame in found] == ['a.mp4', 'c.png']


@pytest.mark.parametrize('name', ['photo', 'photo.dat', 'photo.mp4', 'photo.txt'])
def test_image_with_a_wrong_suffix_is_read_as_an_image(save, picture, name):
    (frame,) = frames(save(name))
    np.testing.assert_array_equal(frame.pixels, picture)
    assert frame.time is None


@pytest.mark.parametrize('name', ['clip', 'clip.dat', 'clip.txt'])
@pytest.mark.parametrize('kind', ['mp4', 'mkv', 'avi', 'ts', 'webm', 'flv', 'ogv'])
def test_video_with_a_wrong_suffix_is_read_as_a_video(make_video, tmp_path, kind, name):
    codecs = {'webm': 'libvpx', 'flv': 'flv', 'ogv': 'libvpx'}
    clip = make_video(f'a.{kind}', codec=codecs.get(kind, 'mpeg4'), frames=20)
    found = frames(clip.rename(tmp_path / name))
    assert [frame.frame for frame in found] == list(range(20))


@pytest.mark.parametrize('start', [b'\0\0\1\xba', b'\0\0\1\xb3', b'\0\0\0\1', b'0&\xb2u'])
def test_start_of_other_videos_is_known(tmp_path, start):
    (tmp_path / 'clip').write_bytes(start + bytes(400))
    (source,) = open_inputs(tmp_path / 'clip')
    assert source.kind == 'video'


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.txt', b'a text', 'is neither an image nor a video'),
        ('a.jpg', b'a text', 'cannot be read as an image'),
        ('a.mp4', b'', 'is empty'),
        ('a.heic', b'\0\0\0\x18ftypheic' + bytes(99), 'is a HEIC file: convert it to JPEG'),
    ],
)
def test_files_of_another_kind_are_one_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in fault(tmp_path / name) and name in fault(tmp_path / name)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('no.jpg', r'no\.jpg does not exist'),
        ('no/*.jpg', 'does not exist'),
        ('ftp://a/b.jpg', 'ftp:// is not supported'),
        ('', 'has no image or video|does not exist'),
        (object(), 'an image must be a numpy array or a PIL image'),
        (1.5, 'an image must be a numpy array or a PIL image'),
        (b'\xff\xd8', 'an image must be a numpy array or a PIL image'),
        (torch.zeros(4, 4, 3), 'an image must be a numpy array or a PIL image'),
        (None, 'an image must be a numpy array or a PIL image'),
        (np.zeros((2, 3, 4, 5, 6)), 'must have the shape'),
    ],
)
def test_what_cannot_be_read_is_one_error(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, fault(given))


def test_empty_folder_is_one_error(tmp_path):
    assert f'folder {tmp_path} has no image' in fault(tmp_path)


def test_error_is_yielded_in_its_place(save, tmp_path):
    found = frames([save('a.png'), tmp_path / 'no.png', save('c.png')])
    assert [isinstance(item, InputError) for item in found] == [False, True, False]


def test_pictures_are_converted_and_numbered(picture):
    gray = np.full((48, 64), 7, np.uint8)
    first, second, third = frames([picture, gray, Image.fromarray(picture[..., ::-1].copy())])
    np.testing.assert_array_equal(first.pixels, picture)
    assert second.pixels.shape == (48, 64, 3) and second.pixels.max() == 7
    np.testing.assert_array_equal(third.pixels, picture)
    assert [f.name for f in (first, second, third)] == ['000000.jpg', '000001.jpg', '000002.jpg']
    other = frames(picture)[0]
    assert other.name == first.name and other.identity != first.identity


def test_array_of_four_axes_is_several_pictures(picture):
    assert [f.name for f in frames(np.stack([picture] * 2))] == ['000000.jpg', '000001.jpg']


def test_endless_generator_is_read_one_by_one(save, picture, make_video):
    read = []

    def generator():
        for number in itertools.count():
            read.append(number)
            yield (picture, save('a.png'), make_video(frames=2), 'no.jpg')[number % 4]

    (source,) = open_inputs(generator())
    assert source.total is None and not read
    found = list(itertools.islice(source, 7))
    assert [getattr(f, 'frame', 'error') for f in found] == [None, None, 0, 1, 'error', None, None]
    assert [f.name for f in found if isinstance(f, Frame) and f.name.startswith('0')] == [
        '000000.jpg',
        '000001.jpg',
    ]
    assert len(read) <= 7


@pytest.mark.parametrize('kind', ['gif', 'webp', 'png', 'tiff'])
def test_first_picture_of_a_moving_image_is_used_and_that_is_said(tmp_path, caplog, kind):
    path = tmp_path / f'a.{kind}'
    shades = [Image.fromarray(np.full((16, 16, 3), v, np.uint8)) for v in (40, 200)]
    shades[0].save(path, save_all=True, append_images=shades[1:])
    (frame,) = frames(path)
    assert abs(int(frame.pixels.mean()) - 40) < 3
    assert caplog.messages == [f'image {path} has several pictures: the first is used']


def test_images_and_videos_are_read_from_a_server(served, save, picture, make_video):
    folder, server = served
    for path in (save('a.png'), make_video('b.mp4', frames=2)):
        path.rename(folder / path.name)
    image, *video = frames([server.url('a.png'), server.url('b.mp4')])
    np.testing.assert_array_equal(image.pixels, picture)
    assert image.name == server.url('a.png')
    assert [frame.frame for frame in video] == [0, 1]


def test_server_is_asked_for_the_kind_if_the_url_does_not_tell(served, save, make_video):
    folder, server = served
    save('a.png').rename(folder / 'a.png')
    (folder / 'b.txt').touch()
    for name in ('link', 'page'):
        (folder / name).mkdir()
    (folder / 'page/index.html').touch()
    assert 'is neither an image nor a video, but text/plain' in fault(server.url('b.txt'))
    assert 'text/html' in fault(server.url('page/'))
    assert frames(server.url('a.png?size=3'))[0].pixels.shape == (48, 64, 3)


def test_faults_of_a_server_are_one_error_each(served, save, monkeypatch):
    folder, server = served
    save('a.png').rename(folder / 'a.png')
    (folder / 'b.png').write_bytes(b'no image')
    assert '404' in fault(server.url('no.png'))
    assert '404' in fault(server.url('no.mp4'))
    assert '404' in fault(server.url('no'))
    assert 'cannot be read as an image' in fault(server.url('b.png'))
    monkeypatch.setattr(module, 'MAX_DOWNLOAD', 10)
    assert 'larger than 10 bytes' in fault(server.url('a.png'))


@pytest.mark.parametrize('url', ['http://{}/a.png', 'http://{}/a.mp4', 'rtsp://{}/a', 'http://{}'])
def test_refused_connections_are_one_error(url, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        place = url.format(f'127.0.0.1:{free.getsockname()[1]}')
    assert 'Connection refused' in fault(place)
    assert place in fault(place)


def test_silent_stream_is_one_error(monkeypatch):
    from kapao_mm.media import video

    monkeypatch.setattr(video, 'TIMEOUT', 0.1)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        message = fault(f'rtsp://127.0.0.1:{silent.getsockname()[1]}/a')
    assert 'no data within 0.1 s' in message


class Camera:
    """Stands for OpenCV's camera 1, which gives three pictures."""

    def __init__(self, index: int) -> None:
        self.index, self.left = index, 3

    def isOpened(self) -> bool:
        return self.index == 1

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 64, cv2.CAP_PROP_FRAME_HEIGHT: 48}.get(what, 0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.zeros((48, 64, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.left = 0


@pytest.mark.parametrize('given', [1, 'webcam:1', '1', '/dev/video1'])
def test_camera_gives_pictures_until_it_stops(monkeypatch, given):
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    (source,) = open_inputs(given)
    assert (source.name, source.kind, source.total) == ('webcam:1', 'live', None)
    assert (source.fps, source.size) == (30, (64, 48))
    *found, error = source
    assert [frame.frame for frame in found] == [0, 1, 2]
    assert found[0].time == 0
    assert str(error) == 'webcam:1 gives no more pictures, after 3'


def test_missing_camera_is_one_error(capfd):
    assert 'webcam:77 cannot be opened' in fault('webcam:77')
    assert capfd.readouterr().err == ''


def test_webcam_without_a_number_is_the_first(monkeypatch, save, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [source.name for source in open_inputs('webcam')] == ['webcam:0']
    save('webcam')
    assert [source.name for source in open_inputs('webcam')] == ['images']  # a file goes first


def test_neither_torch_nor_mm_is_imported(repo):
    code = (
        'import sys, types; package = types.ModuleType("kapao_mm.apis"); '
        'import kapao_mm; package.__path__ = [kapao_mm.__path__[0] + "/apis"]; '
        'sys.modules["kapao_mm.apis"] = package; import kapao_mm.media.inputs; '
        'print([name for name in ("torch", "mmengine", "mmcv", "av") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=repo, capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr
