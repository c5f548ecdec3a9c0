# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import csv
import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import pytest

from kapao_mm.apis import predict_files as module
from kapao_mm.apis.predict_files import predict_files
from kapao_mm.errors import InputError
from kapao_mm.media.inputs import open_inputs


@pytest.fixture
def folder(tmp_path, make_image) -> Path:
    """Returns a folder with two images, of one cat and of none."""
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in/a.png'), make_image())
    cv2.imwrite(str(tmp_path / 'in/b.jpg'), make_image(value=90))
    return tmp_path / 'in'


@pytest.fixture
def run(predictor, tmp_path):
    """Makes a function that predicts inputs into the folder ``out``."""

    def call(inputs, **options):
        given = options.pop('options', predictor.options())
        return predict_files(predictor, open_inputs(inputs), given, tmp_path / 'out', **options)

    return call


def written(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / 'out'))


def test_every_image_gets_a_picture_a_json_file_and_a_line(run, folder, tmp_path, capsys):
    counts = run(str(folder))
    assert (counts.done, counts.errors) == (2, 0)
    assert written(tmp_path) == ['a.jpg', 'a.json', 'b.jpg', 'b.json']
    content = json.loads((tmp_path / 'out/a.json').read_text())
    assert content['image'] == str(folder / 'a.png') and len(content['poses']) == 1
    lines = capsys.readouterr().out.splitlines()
    out = tmp_path / 'out'
    assert lines == [
        f'{folder}/a.png: 1 poses, 1 keypoint objects, 1 fused -> {out}/a.jpg',
        f'{folder}/b.jpg: 0 poses, 0 keypoint objects, 0 fused -> {out}/b.jpg',
    ]
    assert counts.summary().startswith('2 images in ')


def test_tables_have_the_poses_of_all_images(run, folder, tmp_path):
    run(str(folder), formats=['jsonl', 'csv', 'coco'])
    assert written(tmp_path) == ['poses.csv', 'poses.jsonl', 'poses.keypoints.json']
    lines = (tmp_path / 'out/poses.jsonl').read_text().splitlines()
    assert [Path(json.loads(line)['image']).name for line in lines] == ['a.png', 'b.jpg']
    (row,) = csv.DictReader((tmp_path / 'out/poses.csv').open())
    assert float(row['nose_x']) == 40
    (record,) = json.loads((tmp_path / 'out/poses.keypoints.json').read_text())
    assert (record['image_id'], record['category_id']) == ('a', 1)


def test_images_with_the_same_name_do_not_overwrite_each_other(run, folder, tmp_path, make_image):
    (tmp_path / 'y').mkdir()
    cv2.imwrite(str(tmp_path / 'y/a.jpg'), make_image(size=(64, 64)))
    run([folder / 'a.png', tmp_path / 'y/a.jpg'])
    assert cv2.imread(str(tmp_path / 'out/a.jpg')).shape[1] == 128
    assert cv2.imread(str(tmp_path / 'out/a_2.jpg')).shape[1] == 64


def test_bad_files_do_not_stop_a_run(run, folder, tmp_path, capfd):
    (folder / 'loop.jpg').symlink_to('loop.jpg')
    (folder / 'text.jpg').write_text('no image')
    os.mkfifo(folder / 'pipe.jpg')
    odd = os.fsdecode(b'z\xff.jpg')
    (folder / odd).write_bytes((folder / 'b.jpg').read_bytes())
    (folder / f'{"l" * 251}.jpg').write_bytes((folder / 'b.jpg').read_bytes())
    counts = run(str(folder))
    assert (counts.done, counts.errors) == (4, 3)
    _, err = capfd.readouterr()
    assert err.count('error: ') == 3
    stems = ['a', 'b', 'l' * 240, odd[:-4]]
    assert written(tmp_path) == sorted(s + suffix for s in stems for suffix in ('.jpg', '.json'))


def test_memory_error_of_a_picture_does_not_stop_a_run(run, folder, tmp_path, monkeypatch, capsys):
    original = module.write_picture

    def fail_once(picture, path):
        if path.stem == 'a':
            raise MemoryError
        return original(picture, path)

    monkeypatch.setattr(module, 'write_picture', fail_once)
    counts = run(str(folder))
    assert counts.errors == 1
    assert 'a.png cannot be predicted: MemoryError' in capsys.readouterr().err
    assert 'b.json' in written(tmp_path)


def test_the_folder_of_the_images_is_never_written_to(predictor, folder, capsys):
    before = sorted(os.listdir(folder))
    counts = predict_files(predictor, open_inputs(str(folder)), predictor.options(), folder)
    assert counts.errors == 2
    assert 'write them to another folder' in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == before


def test_full_disk_leaves_no_partial_picture(run, folder, tmp_path, monkeypatch, capsys):
    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', fail)
    assert run([folder / 'a.png']).errors == 1
    assert 'a.jpg cannot be written: No space left' in capsys.readouterr().err
    assert written(tmp_path) == []


@pytest.mark.parametrize('encoding', ['utf-8', 'ascii'])
def test_names_that_a_terminal_cannot_show_do_not_stop_a_run(run, folder, encoding):
    renamed = folder / os.fsdecode('ä'.encode() + b'\xff.jpg')
    (folder / 'b.jpg').rename(renamed)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    with redirect_stdout(terminal):
        assert run([renamed]).errors == 0
    terminal.flush()
    assert b'udcff.jpg: 0 poses' in terminal.buffer.getvalue()


@pytest.fixture
def video(tmp_path, make_image) -> Path:
    """Returns a video of eight frames, in which a cat walks."""
    pytest.importorskip('av', reason='the package av is optional')
    from kapao_mm.media.video import VideoWriter

    path = tmp_path / 'in/walk.mp4'
    path.parent.mkdir()
    writer = VideoWriter(path, fps=4)
    for i in range(8):
        frame = make_image()
        cv2.circle(frame, (30 + 4 * i, 30), 3, (255, 255, 255), -1)
        writer.write(frame, i / 4)
    writer.close()
    return path


def test_a_video_gives_a_video_and_its_frames_as_json(run, video, tmp_path, capsys):
    from kapao_mm.media.video import VideoReader

    counts = run(str(video))
    assert (counts.done, counts.errors) == (8, 0)
    assert written(tmp_path) == ['walk.json', 'walk.mp4']
    content = json.loads((tmp_path / 'out/walk.json').read_text())
    assert (content['fps'], content['width'], content['height']) == (4, 128, 64)
    assert [frame['time'] for frame in content['frames']] == [i / 4 for i in range(8)]
    assert all(len(frame['poses']) == 1 for frame in content['frames'])
    drawn = list(VideoReader(tmp_path / 'out/walk.mp4'))
    assert [time for _, time, _ in drawn] == pytest.approx([i / 4 for i in range(8)], abs=0.01)
    assert f'{video}: 8 frames, 8 poses -> ' in capsys.readouterr().out


def test_an_interrupted_video_is_complete_up_to_there(run, video, tmp_path, predictor, monkeypatch):
    from kapao_mm.media.video import VideoReader

    original = predictor.run_network

    def interrupted(batch, settings):
        if len(predictor.batches) == 5:
            raise KeyboardInterrupt
        return original(batch, settings)

    monkeypatch.setattr(predictor, 'run_network', interrupted)
    counts = run(str(video))
    assert counts.interrupted and counts.done == 5
    assert written(tmp_path) == ['walk.json', 'walk.mp4']
    assert len(json.loads((tmp_path / 'out/walk.json').read_text())['frames']) == 5
    assert len(list(VideoReader(tmp_path / 'out/walk.mp4'))) == 5


def test_without_a_display_nothing_is_shown(run, folder, tmp_path, monkeypatch):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('sys.platform', 'linux')
    with pytest.raises(InputError, match='there is no display'):
        run(str(folder), show=True)
    assert written(tmp_path) == []


def test_an_opencv_without_windows_is_said(run, folder, monkeypatch):
    def fail(*args):
        raise cv2.error('not implemented')

    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(cv2, 'namedWindow', fail)
    with pytest.raises(InputError, match='opencv-python-headless'):
        run(str(folder), show=True)


def test_shown_pictures_are_drawn_until_q(run, folder, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(cv2, 'namedWindow', lambda *args: None)
    monkeypatch.setattr(cv2, 'imshow', lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, 'waitKey', lambda delay: ord('q'))
    counts = run(str(folder), show=True, formats=['json'])
    assert counts.interrupted and len(shown) == 1
    assert (shown[0] != cv2.imread(str(folder / 'a.png'))).any()
    assert written(tmp_path) == ['a.json']


def test_an_image_that_cannot_be_written_is_not_shown(run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(cv2, 'namedWindow', lambda *args: None)
    monkeypatch.setattr(cv2, 'imshow', lambda name, picture: picture.shape)
    monkeypatch.setattr(cv2, 'waitKey', lambda delay: -1)
    (tmp_path / 'out').mkdir()
    image = (folder / 'a.png').rename(tmp_path / 'out/a.png')
    counts = run([image, folder / 'b.jpg'], show=True)
    assert counts.errors == 1 and written(tmp_path) == ['a.png', 'b.jpg', 'b.json']


def test_a_broken_video_does_not_stop_the_next_source(run, folder, tmp_path, capsys):
    pytest.importorskip('av', reason='the package av is optional')
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    counts = run([tmp_path / 'broken.mp4', folder / 'a.png'])
    assert (counts.done, counts.errors) == (1, 1)
    assert 'broken.mp4' in capsys.readouterr().err
    assert written(tmp_path) == ['a.jpg', 'a.json']


def test_tracks_are_drawn_and_written(run, video, tmp_path, predictor):
    pytest.importorskip('scipy', reason='the package scipy is optional')
    run(str(video), options=predictor.options(track=True), formats=['jsonl'])
    lines = map(json.loads, (tmp_path / 'out/poses.jsonl').read_text().splitlines())
    ids = [pose['track_id'] for line in lines for pose in line['poses']]
    assert len(ids) == 8 and set(ids[2:]) == {1}
