# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest


@pytest.fixture
def source(tmp_path):
    content = dict(
        categories=[dict(id=1)],
        images=[dict(id=i) for i in (5, 3, 9)],
        annotations=[dict(id=i, image_id=image) for i, image in enumerate((9, 5, 3, 5))],
    )
    path = tmp_path / 'all.json'
    path.write_text(json.dumps(content))
    return path


def test_first_images_are_kept_with_their_annotations(run_tool, source, tmp_path, capsys):
    target = tmp_path / 'new/some.json'
    assert run_tool('dataset_converters/subset.py', source, target, '--images', 2) is None
    found = json.loads(target.read_text())
    assert [image['id'] for image in found['images']] == [5, 3]
    assert [a['id'] for a in found['annotations']] == [1, 2, 3]
    assert found['categories'] == [dict(id=1)]
    assert capsys.readouterr().out == f'{target}: 2 images, 3 annotations\n'


def test_too_few_images_are_an_error(run_tool, source, tmp_path):
    target = tmp_path / 'some.json'
    message = run_tool('dataset_converters/subset.py', source, target, '--images', 4)
    assert message == 'error: 4 images were asked for, the file has 3'
    assert not target.exists()


def test_missing_file_is_reported(run_tool, tmp_path):
    missing = tmp_path / 'missing.json'
    target = tmp_path / 'new.json'
    message = run_tool('dataset_converters/subset.py', missing, target, '--images', 1)
    assert message == f'error: annotation file {missing}: No such file or directory'


def test_source_is_not_overwritten(run_tool, source):
    before = source.read_text()
    message = run_tool('dataset_converters/subset.py', source, source, '--images', 2)
    assert message == f'error: {source} is the source file; give another name'
    assert source.read_text() == before


@pytest.mark.parametrize(
    ('key', 'change', 'message'),
    [
        ('images', dict(id=3), 'images that share their id with others: 3'),
        ('images', dict(id=[]), 'images whose id is not a whole number: images[0]'),
        ('annotations', dict(image_id=77), 'annotations of images that the file does not list: 0'),
        ('annotations', dict(image_id=[]), 'annotations of images that the file does not list: 0'),
    ],
)
def test_wrong_references_and_ids_are_refused(run_tool, source, tmp_path, key, change, message):
    content = json.loads(source.read_text())
    content[key][0] |= change
    source.write_text(json.dumps(content))
    target = tmp_path / 'some.json'
    found = run_tool('dataset_converters/subset.py', source, target, '--images', 2)
    assert message in found
    assert not target.exists()


@pytest.mark.parametrize('count', [0, -1])
def test_number_of_images_must_be_positive(run_tool, source, tmp_path, count):
    assert (
        run_tool('dataset_converters/subset.py', source, tmp_path / 'b.json', '--images', count)
        == 2
    )
