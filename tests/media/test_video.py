# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import gc
import resource
import signal
import subprocess
import sys
import wave
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip('av')

from kapao_mm.errors import InputError
from kapao_mm.media import video
from kapao_mm.media.inputs import open_inputs
from kapao_mm.media.video import FrameChoice, VideoReader, VideoWriter


def assert_close(picture: np.ndarray, expected: np.ndarray) -> None:
    """Colors away from edges survive the encoding."""
    assert picture.shape == expected.shape
    height, width = picture.shape[:2]
    rows, columns = [height // 4, height * 3 // 4], [width // 4, width * 3 // 4]
    difference = picture[rows][:, columns].astype(int) - expected[rows][:, columns]
    assert np.abs(difference).max() < 12


def test_reader_gives_frames_with_numbers_times_and_colors(make_video, picture):
    reader = VideoReader(make_video(frames=5))
    assert (reader.size, reader.fps, reader.total) == ((64, 48), 25, 5)
    assert reader.duration == pytest.approx(0.2)
    numbers, times, pictures = zip(*reader, strict=True)
    assert numbers == (0, 1, 2, 3, 4)
    np.testing.assert_allclose(times, np.arange(5) / 25, atol=1e-4)
    for read in pictures:
        assert read.dtype == np.uint8
        assert_close(read, picture)


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('degrees', [0, 90, 180, 270])
def test_videos_of_turned_phones_are_upright(make_video, picture, degrees, mirrored):
    reader = VideoReader(make_video(frames=1, turned=(degrees, mirrored)))
    expected = np.rot90(picture, degrees // 90)
    ((_, _, read),) = reader
    assert_close(read, expected[:, ::-1] if mirrored else expected)
    assert reader.size == read.shape[1::-1]


def test_times_of_a_variable_frame_rate_are_kept(make_video):
    times = [0, 0.033, 0.2, 0.21, 1.5]
    np.testing.assert_allclose([t for _, t, _ in VideoReader(make_video(times=times))], times)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('ten.mp4', dict(pix_fmt='yuv420p10le')),
        ('odd.mkv', dict(codec='ffv1', pix_fmt='yuv420p', size=(101, 57))),
        ('alpha.mkv', dict(codec='ffv1', pix_fmt='yuva420p')),
        ('rgb.mkv', dict(codec='ffv1', pix_fmt='bgr0')),
        ('moving.avi', dict(codec='mjpeg', pix_fmt='yuvj420p')),
    ],
)
def test_other_pixel_formats_and_sizes_are_read(make_video, name, options):
    width, height = options.get('size', (64, 48))
    frames = [read for _, _, read in VideoReader(make_video(name, **options))]
    assert len(frames) == 5
    assert {frame.shape for frame in frames} == {(height, width, 3)}
    assert tuple(frames[0][height // 4, width // 4] > 128) == (True, False, False)  # blue


def test_gray_videos_become_bgr(make_video):
    ((_, _, read),) = VideoReader(make_video('g.mkv', frames=1, codec='ffv1', pix_fmt='gray'))
    assert read.shape == (48, 64, 3)
    assert np.ptp(read, axis=2).max() == 0


def test_pixels_become_square(make_video):
    reader = VideoReader(make_video(frames=1, ratio=Fraction(2)))
    ((_, _, read),) = reader
    assert reader.size == (128, 48) == read.shape[1::-1]


def test_one_of_several_streams_is_read(make_video):
    assert len(list(VideoReader(make_video('two.mkv', frames=4, streams=2)))) == 4


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_cut_video_gives_its_start_and_one_warning(make_video, caplog, suffix):
    path = make_video(f'a.{suffix}', frames=50, codec='mjpeg', pix_fmt='yuvj420p')
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    count = len(list(VideoReader(path)))
    assert 5 < count < 50
    (message,) = caplog.messages
    assert f'video {path} is incomplete: it ends after {count} of 50 frames' in message


def test_damaged_frames_are_counted_and_the_others_read(make_video, caplog):
    path = make_video('a.mov', frames=20, codec='png', pix_fmt='rgb24', size=(32, 32))
    content = bytearray(path.read_bytes())
    starts = [i for i in range(len(content)) if content[i : i + 4] == b'\x89PNG']
    content[starts[3] : starts[3] + 8] = b'no image'
    path.write_bytes(content)
    assert len(list(VideoReader(path))) == 19
    assert 'damaged frames: 1' in caplog.text


class BreaksOff:
    """A container whose source breaks off after ten packets."""

    def __init__(self, container) -> None:
        self._container = container

    def __getattr__(self, name: str):
        return getattr(self._container, name)

    def demux(self, stream):
        yield from islice(self._container.demux(stream), 10)
        raise av.error.ConnectionResetError(104, 'Connection reset by peer')


def test_frames_before_an_error_have_their_times(make_video, monkeypatch):
    path, opened = make_video(frames=20), VideoReader._open
    monkeypatch.setattr(VideoReader, '_open', lambda self: BreaksOff(opened(self)))
    times = []
    with pytest.raises(InputError, match=f'{path} ends after 10 frames: Connection reset by peer'):
        for _, time, _ in VideoReader(path):
            times.append(time)
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=1e-4)


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (None, 'does not exist'),
        (b'', 'is empty'),
        (b'no video' * 100, 'cannot be read: it is not a video, or its end is missing'),
    ],
)
def test_files_that_are_no_videos_are_refused_by_name(tmp_path, content, fault):
    path = tmp_path / 'a.mp4'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f'^video {path} {fault}[^\n]*$'):
        VideoReader(path)


def test_video_without_its_index_is_refused(make_video):
    path = make_video(movflags=None)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match='its end is missing'):
        VideoReader(path)


def test_sound_is_no_video(tmp_path):
    path = tmp_path / 'a.wav'
    with wave.open(str(path), 'wb') as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    with pytest.raises(InputError, match='has sound but no pictures'):
        VideoReader(path)


def test_gigantic_frames_are_refused_before_they_are_decoded(make_video, monkeypatch):
    path = make_video()
    monkeypatch.setattr(video, 'MAX_PIXELS', 1000)
    with pytest.raises(InputError, match='more than 1,000 px'):
        VideoReader(path)


def test_missing_pyav_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(InputError, match=r"PyAV.* pip install 'kapao-mm\[video\]'"):
        VideoReader('a.mp4')


@pytest.mark.parametrize(
    ('options', 'source_fps', 'taken'),
    [
        (dict(), 25, [0, 1, 2, 3, 4, 5, 6, 7]),
        (dict(every=3), 25, [0, 3, 6]),
        (dict(fps=10), 25, [0, 2, 4, 7]),
        (dict(fps=30), 30, [0, 1, 2, 3, 4, 5, 6, 7]),
        (dict(fps=15), 30, [0, 2, 4, 6]),
        (dict(fps=60), 25, [0, 1, 2, 3, 4, 5, 6, 7]),
        (dict(fps=1), 25, [0]),
    ],
)
def test_frames_are_chosen_by_number_or_time(options, source_fps, taken):
    choice = FrameChoice(**options)
    times = [round(number / source_fps, 3) for number in range(8)]  # ms, as in many files
    assert [number for number, time in enumerate(times) if choice(number, time)] == taken
    if taken != [0]:
        assert choice.count(8, 1 / source_fps) == len(taken)


def test_reader_gives_the_chosen_frames_and_says_their_rate(make_video):
    reader = VideoReader(make_video(frames=10), every=4)
    assert (reader.fps, reader.total) == (6.25, 3)
    assert [number for number, _, _ in reader] == [0, 4, 8]


@pytest.mark.parametrize('options', [dict(every=0), dict(every=1.5), dict(fps=0), dict(fps=-1)])
def test_choices_that_give_nothing_are_refused(options):
    with pytest.raises(InputError, match='must be'):
        FrameChoice(**options)


@pytest.mark.parametrize(
    ('stamps', 'times'),
    [
        ([5.0, 5.1, None, 5.3], [0, 0.1, 0.2, 0.3]),
        ([0, 5.0, 1.0, 5.1], [0, 5.0, 5.001, 5.1]),  # one comes late
        ([0, 5.0, 1.0, 1.1, 1.2], [0, 5.0, 5.001, 5.101, 5.201]),  # joined
        ([0, 0.1, 0.1, 0.1], [0, 0.1, 0.101, 0.102]),
    ],
)
def test_times_increase_whatever_the_time_stamps(stamps, times):
    clock = video._Clock(0.1, None)
    np.testing.assert_allclose([clock(stamp) for stamp in stamps], times)


def write(path, pictures, times=None, fps=25) -> VideoWriter:
    with VideoWriter(path, fps) as writer:
        for i, picture in enumerate(pictures):
            writer.write(picture, None if times is None else times[i])
    return writer


@pytest.mark.parametrize('suffix', ['mp4', 'mov', 'mkv'])
def test_written_video_has_the_colors_times_and_length(tmp_path, picture, suffix):
    path = tmp_path / f'a.{suffix}'
    times = [0, 0.05, 0.1, 0.5, 1.25]
    write(path, [picture] * 5, times, fps=20)
    reader = VideoReader(path)
    assert reader.duration == pytest.approx(1.3, abs=0.002)
    _, read_times, pictures = zip(*reader, strict=True)
    np.testing.assert_allclose(read_times, times, atol=0.001)
    for read in pictures:
        assert_close(read, picture)
    assert list(tmp_path.iterdir()) == [path]


def test_written_video_is_one_that_browsers_play(tmp_path, picture):
    path = tmp_path / 'a.mp4'
    write(path, [picture] * 60)
    content = path.read_bytes()
    assert 0 < content.index(b'moov') < content.index(b'mdat')  # plays while it loads
    assert b'moof' not in content  # seeking works in every player
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ('h264', 'yuv420p')
        assert (context.colorspace, context.color_range) == (1, 1)
        assert container.streams.video[0].frames == 60
        assert container.streams.video[0].average_rate == 25


def test_odd_sizes_are_padded_at_the_right_and_bottom(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 3), np.uint8).repeat(57, 0)
    path = tmp_path / 'a.mp4'
    write(path, [picture.repeat(101, 1)] * 2)
    assert VideoReader(path).size == (102, 58)


def test_pictures_of_another_size_are_scaled_to_the_first(tmp_path, picture, caplog):
    path = tmp_path / 'a.mp4'
    write(path, [picture, picture.repeat(2, 0), picture.repeat(2, 0)])
    for _, _, read in VideoReader(path):
        assert_close(read, picture)
    assert len(caplog.messages) == 1


def test_picture_may_be_changed_after_it_was_written(tmp_path, picture):
    path, buffer = tmp_path / 'a.mp4', picture.copy()
    with VideoWriter(path, 25) as writer:
        for _ in range(5):
            buffer[:] = picture
            writer.write(buffer)
            buffer[:] = 0
    for _, _, read in VideoReader(path):
        assert_close(read, picture)


def test_times_that_do_not_increase_lose_no_picture(tmp_path, picture):
    write(tmp_path / 'a.mp4', [picture] * 4, [0, 0.1, 0.1, 0.05])
    assert len(list(VideoReader(tmp_path / 'a.mp4'))) == 4


@pytest.mark.parametrize('error', [KeyboardInterrupt, ZeroDivisionError])
def test_video_can_be_played_after_an_error(tmp_path, picture, error):
    path = tmp_path / 'a.mp4'
    with pytest.raises(error), VideoWriter(path, 25) as writer:
        for _ in range(7):
            writer.write(picture)
        raise error
    assert len(list(VideoReader(path))) == 7
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_video_of_a_killed_process_can_be_played(tmp_path, repo):
    code = f"""
import os, numpy as np
from kapao_mm.media.video import VideoWriter
writer = VideoWriter({str(tmp_path / 'a.mp4')!r}, 25)
for i in range(500):
    writer.write(np.full((48, 64, 3), i % 256, np.uint8))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=repo)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.rglob('*.mp4')
    assert left.parent.name.endswith('.partial')
    assert len(list(VideoReader(left))) >= 300


def test_no_picture_gives_no_file(tmp_path):
    with VideoWriter(tmp_path / 'a.mp4', 25) as writer:
        pass
    assert writer.close() is None
    assert not list(tmp_path.iterdir())


def test_error_of_the_encoder_is_raised_and_leaves_no_broken_file(tmp_path, picture, monkeypatch):
    def fail(self, frame):
        raise InputError('disk full')

    monkeypatch.setattr(VideoWriter, '_encode', fail)
    with pytest.raises(InputError, match='disk full'):
        write(tmp_path / 'a.mp4', [picture] * 20)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['a.avi', 'a', 'a.jpg'])
def test_formats_that_are_not_written_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r'must end in \.mp4'):
        VideoWriter(tmp_path / name, 25)


def test_closed_writer_refuses_pictures(tmp_path, picture):
    writer = write(tmp_path / 'a.mp4', [picture])
    with pytest.raises(ValueError, match='closed'):
        writer.write(picture)


def test_next_encoder_is_taken_and_named_if_the_best_is_missing(
    tmp_path, picture, monkeypatch, caplog
):
    monkeypatch.setattr(video, 'ENCODERS', ('none', 'mpeg4'))
    write(tmp_path / 'a.mp4', [picture] * 3)
    assert 'mpeg4' in caplog.text
    assert len(list(VideoReader(tmp_path / 'a.mp4'))) == 3


@pytest.mark.slow
def test_reading_keeps_memory_flat(make_video):
    """Also while no garbage is collected: frames must not be part of reference cycles."""
    statm = Path('/proc/self/statm')
    if not statm.exists():
        pytest.skip('memory is measured on Linux only')
    path, used = make_video(frames=300, size=(640, 480), turned=(90, False)), []
    gc.disable()
    try:
        for number, _, _ in VideoReader(path):
            if number in (100, 299):
                used.append(int(statm.read_text().split()[1]) * resource.getpagesize())
    finally:
        gc.enable()
    assert used[1] - used[0] < 30e6  # 200 frames have 90 MB as yuv420p


def test_a_password_is_not_repeated():
    url = 'rtsp://me:secret@127.0.0.1:9/live?x=1@2'
    with pytest.raises(InputError, match=r'video rtsp://127\.0\.0\.1:9/live') as error:
        VideoReader(url)
    assert 'secret' not in str(error.value)
    (source,) = open_inputs(url)
    assert source.name == 'rtsp://127.0.0.1:9/live?x=1@2'
