# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import csv
import errno
import json
from dataclasses import replace

import pytest

from kapao_mm.apis.writers import (
    COCOWriter,
    CSVWriter,
    JSONLinesWriter,
    VideoJSONWriter,
)
from kapao_mm.errors import InputError
from kapao_mm.media.inputs import Source


@pytest.fixture
def results(make_result):
    return [replace(make_result(), name='a.mp4', frame=i, time=i / 4) for i in range(3)]


def test_json_lines_can_be_read_while_they_are_written(results, tmp_path):
    path = tmp_path / 'a.jsonl'
    with JSONLinesWriter(path) as writer:
        for number, result in enumerate(results, 1):
            writer.write(result)
            lines = path.read_text().splitlines()
            assert len(lines) == number
            assert json.loads(lines[-1]) == result.to_dict()


def test_the_json_of_a_video_has_its_frames(results, tmp_path):
    path, source = tmp_path / 'a.json', Source('a.mp4', 'video')
    source.fps, source.size = 4, (64, 48)
    with VideoJSONWriter(path, 'a.mp4', source, results[0].metainfo) as writer:
        for result in results:
            writer.write(result)
    content = json.loads(path.read_text())
    assert (content['version'], content['video'], content['fps']) == (1, 'a.mp4', 4)
    assert (content['width'], content['height']) == (64, 48)
    assert content['keypoint_names'] == results[0].metainfo.names_by_category()
    assert [(frame['frame'], frame['time']) for frame in content['frames']] == [
        *((0, 0), (1, 0.25)),
        (2, 0.5),
    ]
    assert content['frames'][1]['poses'] == results[1].to_dict()['poses']


def test_coco_records_of_frames_say_which(results, tmp_path):
    path = tmp_path / 'a.keypoints.json'
    with COCOWriter(path) as writer:
        for result in results:
            writer.write(result)
    assert [record['frame'] for record in json.loads(path.read_text())] == [0, 0, 1, 1, 2, 2]


def test_a_table_has_a_row_for_each_pose(results, tmp_path):
    path = tmp_path / 'a.csv'
    with CSVWriter(path) as writer:
        for result in results:
            writer.write(result)
    rows = list(csv.DictReader(path.open()))
    assert [row['frame'] for row in rows] == list('001122')
    assert (rows[0]['category'], rows[0]['hood_x'], rows[0]['nose_x']) == ('car', '30.0', '')


@pytest.mark.parametrize('writer', [JSONLinesWriter, COCOWriter, CSVWriter])
def test_an_interrupted_file_is_complete_up_to_there(results, tmp_path, writer):
    path = tmp_path / 'a'

    def interrupted():
        with writer(path) as file:
            file.write(results[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ['a']
    assert len(json.loads(text)) == 2 if writer is COCOWriter else text.endswith('\n')


@pytest.mark.parametrize('writer', [COCOWriter, CSVWriter])
def test_a_full_disk_leaves_nothing_behind(tmp_path, writer, monkeypatch):
    def fail():
        raise OSError(errno.ENOSPC, 'No space left on device')

    file = writer(tmp_path / 'a')
    monkeypatch.setattr(file, '_end', fail)
    with pytest.raises(InputError, match='/a cannot be written: No space left on device'):
        file.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('writer', [JSONLinesWriter, COCOWriter, CSVWriter])
def test_a_folder_in_place_of_the_file_is_refused(tmp_path, writer):
    with pytest.raises(InputError, match='is a folder'):
        writer(tmp_path)


@pytest.mark.parametrize('writer', [JSONLinesWriter, COCOWriter, CSVWriter])
def test_a_file_without_results_is_valid(results, tmp_path, writer):
    with writer(tmp_path / 'a'):
        pass
    text = (tmp_path / 'a').read_text()
    assert json.loads(text) == [] if writer is COCOWriter else text == ''
