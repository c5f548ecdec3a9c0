# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import struct
import zlib

import cv2
import numpy as np
import pytest

from kapao_mm.errors import InputError
from kapao_mm.functional.drawing_style import Layers
from kapao_mm.web import session as web_session
from kapao_mm.web.session import (
    Session,
    can_change,
    describe,
    detect,
    finish,
    hide_folder,
    lowest_score,
    predict_video,
    read_upload,
    save_result,
    table_columns,
    table_rows,
)


@pytest.fixture(scope='module')
def make_predictor(load_file):
    return load_file('tests/web/web_predictor.py').MadeUpPredictor


@pytest.fixture
def predictor(make_predictor):
    return make_predictor()


@pytest.fixture
def session(tmp_path):
    return Session.open(tmp_path / 'results')


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'two people.png'
    cv2.imwrite(str(path), np.full((48, 96, 3), 200, np.uint8))
    return path


@pytest.fixture
def video(make_video):
    return make_video('walk.mp4', frames=12)


def png_of_claimed_size(width, height):
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    crc = struct.pack('>I', zlib.crc32(header))
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + header + crc + bytes(4) + b'IDAT'


@pytest.mark.parametrize(
    'name, content, fault',
    [
        ('a.exe', b'MZ', 'a.exe is not one of these types of image: .bmp'),
        ('a.svg', b'<svg/>', 'a.svg is not one of these types of image: .bmp'),
        ('a.jpg', b'no image', 'a.jpg cannot be read as an image'),
        ('a.png', png_of_claimed_size(9000, 9000), 'a.png has more than 50,000,000 px: reduce it'),
        ('a.png', png_of_claimed_size(60000, 60000), 'a.png has more than 50,000,000 px'),
        ('a.png', png_of_claimed_size(8, 8), 'image a.png cannot be read as an image'),
    ],
    ids=['type', 'svg', 'text', 'large', 'bomb', 'cut'],
)
def test_bad_uploads_are_refused_by_name_without_their_folder(tmp_path, name, content, fault):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_upload(path)
    assert str(error.value).startswith(fault)
    assert str(tmp_path) not in str(error.value)


def test_files_above_the_limit_are_refused(image, monkeypatch):
    monkeypatch.setattr(web_session, 'IMAGE_BYTES', image.stat().st_size - 1)
    with pytest.raises(InputError, match='is larger than 0 MB'):
        read_upload(image)


def test_network_runs_with_low_thresholds_and_results_follow_the_chosen_ones(predictor, image):
    detected = detect(predictor, read_upload(image), predictor.options(pose_score_thr=0.5))
    ((settings, _),) = predictor.runs
    assert (settings.pose_score_thr, settings.keypoint_score_thr) == (0.05, 0.05)
    for threshold, poses in ((0.05, 2), (0.5, 1), (0.95, 0)):
        assert (
            len(finish(predictor, detected, predictor.options(pose_score_thr=threshold))) == poses
        )
    fused = [
        finish(predictor, detected, predictor.options(**options)).keypoints_fused.sum()
        for options in (dict(keypoint_score_thr=0.05), dict(), dict(fusion_distance=0))
    ]
    assert fused == [3, 2, 0]
    assert len(predictor.runs) == 1


def test_thresholds_of_exported_models_are_the_lowest(make_predictor, image):
    exported = make_predictor(fixed=True)
    assert lowest_score(exported, 'pose_score_thr') == 0.2
    assert not can_change(exported, pose_iou_thr=0.25)
    detect(exported, read_upload(image), exported.options())
    assert exported.runs[0][0] == exported.settings
    assert lowest_score(make_predictor(), 'pose_score_thr') == 0.05


def test_line_and_table_tell_what_was_found(predictor, image):
    detected = detect(predictor, read_upload(image), predictor.options())
    result = finish(predictor, detected, predictor.options())
    assert describe(result, 0.0123) == (
        '**2 poses**, 2 of 6 keypoints fused · 2 keypoint objects · 96 × 48 px · network 12 ms'
    )
    columns = table_columns(predictor.metainfo)
    assert columns == ['pose', 'score', 'fused', 'x', 'y', 'width', 'height']
    assert table_rows(result) == [
        [1, '0.90', '2 of 3', 6, 6, 36, 36],
        [2, '0.30', '0 of 3', 54, 6, 36, 36],
    ]
    assert describe(result[0], 1).startswith('**1 pose**, 2 of 3 keypoints fused · 2 key')
    assert describe(result[[]], 1).startswith('**No pose** above these thresholds · 2 key')


def test_table_has_the_category_if_there_are_several(make_predictor, image):
    predictor = make_predictor(cars=True)
    detected = detect(predictor, read_upload(image), predictor.options())
    result = finish(predictor, detected, predictor.options())
    assert [row[1:4] for row in table_rows(result)] == [
        ['person', '0.90', '2 of 3'],
        ['car', '0.30', '0 of 0'],
    ]
    assert len(table_columns(predictor.metainfo)) == len(table_rows(result)[0])
    cars = finish(predictor, detected, predictor.options(categories=['car']))
    assert [row[1] for row in table_rows(cars)] == ['car']


def test_results_are_kept_for_a_while_and_removed_with_the_session(predictor, image, session):
    detected = detect(predictor, read_upload(image), predictor.options())
    result = finish(predictor, detected, predictor.options())
    saved = [save_result(result, session, Layers()) for _ in range(5)]
    assert [picture.exists() for picture, _ in saved] == [False, False, True, True, True]
    picture, numbers = saved[-1]
    assert cv2.imread(str(picture)).shape == (48, 96, 3)
    content = json.loads(numbers.read_text())
    assert content['image'] == 'two people.png' and len(content['poses']) == 2
    session.close()
    assert not session.folder.exists()


def test_results_of_images_do_not_push_out_a_video(session):
    video = session.new_folder('video')
    for _ in range(5):
        session.new_folder('image')
    assert video.exists()


def test_layers_change_the_picture(predictor, image, session):
    detected = detect(predictor, read_upload(image), predictor.options())
    result = finish(predictor, detected, predictor.options())
    pictures = [
        cv2.imread(str(save_result(result, session, layers)[0]))
        for layers in (Layers(), Layers(boxes=False))
    ]
    assert (pictures[0] != pictures[1]).any()


def test_video_becomes_a_video_and_its_json(predictor, video, session, monkeypatch):
    av = pytest.importorskip('av')
    monkeypatch.setattr(web_session, 'PREVIEW_EVERY', -1)
    *running, last = predict_video(
        predictor, video, session, predictor.options(track=True), Layers()
    )
    assert [state.done for state in running] == [*range(1, 13)]
    assert running[0].video is None and running[0].total == 12
    assert (last.done, last.poses, last.fault) == (12, 24, '')
    with av.open(str(last.video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    content = json.loads(last.numbers.read_text())
    assert content['video'] == 'walk.mp4'
    assert content['frames'][-1]['poses'][0]['track_id'] == 1
    assert str(session.folder.parent) not in last.numbers.read_text()


def test_stopped_video_is_complete_up_to_there(predictor, video, session, monkeypatch):
    av = pytest.importorskip('av')
    monkeypatch.setattr(web_session, 'PREVIEW_EVERY', -1)
    states = predict_video(predictor, video, session, predictor.options(), Layers())
    next(states)
    session.stop.set()
    last = list(states)[-1]
    assert last.done == 2
    with av.open(str(last.video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2
    assert len(json.loads(last.numbers.read_text())['frames']) == 2


def test_fault_in_a_video_keeps_the_part_before_it(predictor, video, session, monkeypatch):
    run = type(predictor).run
    monkeypatch.setattr(
        type(predictor),
        'run',
        lambda *args: (
            InputError('broken') if result.frame == 5 else result for result in run(*args)
        ),
    )
    *_, last = predict_video(predictor, video, session, predictor.options(), Layers())
    assert (last.done, last.fault) == (5, 'broken')


@pytest.mark.parametrize('name', ['a.mp4', 'a.avi'])
def test_playlists_and_other_files_are_no_videos(predictor, session, tmp_path, name):
    path = tmp_path / name
    path.write_text('#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n')
    with pytest.raises(InputError, match=f'^{name} cannot be read as a video$'):
        next(predict_video(predictor, path, session, predictor.options(), Layers()))
    assert not any(session.folder.iterdir())


def test_messages_lose_the_folder(tmp_path):
    assert hide_folder(f'video {tmp_path}/a.mp4 is cut', tmp_path) == 'video a.mp4 is cut'
