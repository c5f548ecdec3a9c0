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


def test_keeps_the_first_images_with_their_annotations(run_tool, source, tmp_path, capsys):
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


def test_a_missing_file_is_named(run_tool, tmp_path):
    missing = tmp_path / 'missing.json'
    target = tmp_path / 'new.json'
    message = run_tool('dataset_converters/subset.py', missing, target, '--images', 1)
    assert message == f'error: annotation file {missing}: No such file or directory'
