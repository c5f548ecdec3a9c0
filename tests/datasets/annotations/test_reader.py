# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest
from mmpose.registry import DATASETS

from kapao_mm.datasets.annotations.reader import read_annotations, read_json, write_annotations
from kapao_mm.errors import InputError

LISTS = ('images', 'annotations', 'categories')


@pytest.fixture
def read(tmp_path, coco_file):
    """Makes a function that writes and reads a file, and returns its content and the messages."""

    def read(content=None, needed=LISTS):
        path, said = tmp_path / 'a.json', []
        if not isinstance(content, bytes):
            content = json.dumps(content or coco_file).encode()
        path.write_bytes(content)
        return read_annotations(path, needed, said.append), said

    return read


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_json_is_read_in_all_its_encodings(read, coco_file, encoding):
    coco_file['categories'][0]['name'] = 'Möwe'
    text = json.dumps(coco_file, ensure_ascii=False).encode(encoding)
    assert read(text) == (coco_file, [])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r'is not JSON \(it is empty\)'),
        (b' \n', r'is not JSON \(it is empty\)'),
        (b'{"images": [', 'is not JSON .*column'),
        (b'\xff\xd8\xff\xe0 JPEG', 'is not JSON '),
        (b'[' * 100_000, 'nested more than 32 deep'),
        (b'{"images": []}'.replace(b'[]', b'[' * 40 + b']' * 40), 'nested more than 32 deep'),
        (b'{"images": [{"id": 1, "id": 2}]}', "an object has the key 'id' twice"),
        (b'{"images": [{"id": ' + b'9' * 5000 + b'}]}', 'is not JSON .*digits'),
        (b'3', 'it is a int, not an object'),
        (b'{"images": {}}', "it has no list of objects 'images'"),
        (b'{"images": [], "annotations": [1]}', "it has no list of objects 'annotations'"),
        (b'{"images": [], "annotations": null}', "it has no list of objects 'annotations'"),
    ],
)
def test_file_that_is_not_an_annotation_file_is_refused(read, tmp_path, content, message):
    with pytest.raises(InputError, match=f'annotation file {tmp_path}/a.json.*{message}'):
        read(content, needed=('images',))


def test_folder_and_missing_file_are_refused(tmp_path):
    with pytest.raises(InputError, match=f'result file {tmp_path}: Is a directory'):
        read_json(tmp_path, 'result file')
    with pytest.raises(InputError, match='No such file'):
        read_json(tmp_path / 'none.json', 'result file')


def test_only_needed_lists_are_required(read, coco_file):
    del coco_file['categories'], coco_file['annotations']
    assert read(coco_file, needed=('images',))[0] == coco_file
    with pytest.raises(InputError, match="no list of objects 'annotations'"):
        read(coco_file)


MISSING = object()


@pytest.mark.parametrize(
    ('key', 'values', 'expected'),
    [
        ('iscrowd', [True, '0', None], [1, 0, 0]),
        ('iscrowd', [False, '1', True], [0, 1, 1]),
        ('area', ['300', None, ' 2.5 '], [300, MISSING, 2.5]),
        ('num_keypoints', [None, '2', -1], [MISSING] * 3),
        ('num_keypoints', [float('nan'), 1.5, True], [MISSING] * 3),
    ],
)
def test_unambiguous_values_are_converted_with_a_message(read, coco_file, key, values, expected):
    for annotation, value in zip(coco_file['annotations'], values, strict=True):
        annotation[key] = value
    content, (line,) = read(coco_file)
    found = [annotation.get(key, MISSING) for annotation in content['annotations']]
    assert found == expected
    assert [type(value) for value in found] != [bool] * 3
    assert f"a.json: 3 annotations whose '{key}' is " in line
    assert '(11, 12, 13); ' in line


def test_number_above_that_of_labeled_keypoints_is_removed(read, coco_file):
    coco_file['annotations'][0]['num_keypoints'] = 17
    coco_file['annotations'][1]['keypoints'] = [0] * 9
    content, (line,) = read(coco_file)
    assert ['num_keypoints' in a for a in content['annotations']] == [False, False, True]
    assert '2 annotations' in line and '(11, 12)' in line


def test_null_list_of_unlabeled_categories_is_removed(read, coco_file):
    coco_file['images'][0]['not_exhaustive_category_ids'] = None
    content, (line,) = read(coco_file)
    assert 'not_exhaustive_category_ids' not in content['images'][0]
    assert '1 images' in line


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        *[('iscrowd', value) for value in (0, 1, 2, 1.0, 'yes', [1], -1)],
        *[('area', value) for value in (0, -3, 1e12, 'large', 'nan', [])],
        *[('num_keypoints', value) for value in (0, 1, 2, 2.0)],  # CrowdPose counts otherwise
    ],
)
def test_other_values_are_kept_for_the_checks(read, coco_file, key, value):
    coco_file['annotations'][1][key] = value
    assert read(coco_file) == (coco_file, [])


@pytest.mark.slow
def test_each_conversion_is_logged_once(tmp_path, coco_file, triples, log):
    coco_file['annotations'][2]['iscrowd'] = True
    (tmp_path / 'a.json').write_text(json.dumps(coco_file))
    config = dict(type='KeypointDataset', metainfo=triples, ann_file=str(tmp_path / 'a.json'))
    for _ in range(2):
        DATASETS.build(config)
    assert '2 instances' in log.text and '1 crowd regions' in log.text
    assert "1 annotations whose 'iscrowd' is true, false, null or text (13); read as" in log.text


def test_file_is_written_completely_and_its_folder_is_created(tmp_path, coco_file):
    path = tmp_path / 'new/folder/a.json'
    write_annotations(path, coco_file)
    assert json.loads(path.read_text()) == coco_file
    with pytest.raises(TypeError):
        write_annotations(path, coco_file | dict(info=object()))
    assert json.loads(path.read_text()) == coco_file
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match='folder .*a.json cannot be written'):
        write_annotations(path / 'b.json', coco_file)
