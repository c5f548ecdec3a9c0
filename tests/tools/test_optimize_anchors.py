# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.utils.config import load_config

TOOL = 'analysis_tools/optimize_anchors.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'


@pytest.fixture(autouse=True)
def _short_search(monkeypatch):
    monkeypatch.setattr('kapao_mm.analysis.anchors.GENERATIONS', 20)


@pytest.fixture
def options(toy):
    """The flags for the toy data with an input in which keypoint objects have 6.4 px."""
    return ['--cfg-options', f'data_root={toy}', 'input_size=128']


@pytest.mark.slow
def test_anchors_that_match_no_keypoint_object_are_replaced(
    run_tool, read_tables, toy, options, tmp_path, capsys
):
    out = tmp_path / 'new/anchors.py'
    assert run_tool(TOOL, CONFIG, '--out', out, *options) is None
    printed = capsys.readouterr().out
    content = json.loads((toy / 'annotations/person_keypoints_train.json').read_text())
    people = len(content['annotations'])
    assert f'{CONFIG}: {people} pose objects in 4 images, input 128 px, ratio' in printed
    before, after = read_tables(printed)
    kinds = ['pose objects', 'pose objects in training', 'keypoint objects']
    assert [row['current anchors'] for row in before] == kinds
    assert [row['new anchors'] for row in after] == kinds
    assert [float(number) for number in list(before[-1].values())[1:]] == [0] * 6
    assert [float(row['recall']) for row in after] == [1, 1, 1]

    found = load_config(out)
    _, _, snippet = out.read_text().partition('\n\n')
    assert snippet in printed
    assert printed.endswith(f'\nNext: kapao train {out}, with the same --cfg-options\n')
    assert np.shape(found.model.head.anchors) == (4, 3, 2)
    assert found.model.head.anchors != load_config(CONFIG).model.head.anchors
    assert found.max_epochs == load_config(CONFIG).max_epochs


@pytest.mark.slow
def test_anchors_that_fit_are_kept(run_tool, read_tables, toy, tmp_path, capsys):
    args = [CONFIG, '--out', tmp_path / 'anchors.py', '--cfg-options', f'data_root={toy}']
    assert run_tool(TOOL, *args) is None
    printed = capsys.readouterr().out
    ((*_, keypoints),) = read_tables(printed)
    assert [float(number) for number in list(keypoints.values())[1:]] == [1, 2, 1, 0, 0, 0]
    assert printed.endswith('They fit: no recall is below 0.98 (--force finds others).\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('flags', [['--force'], ['--target-recall', 1.1]])
def test_anchors_that_fit_are_replaced_on_request(run_tool, toy, capsys, flags):
    assert run_tool(TOOL, CONFIG, *flags, '--cfg-options', f'data_root={toy}') is None
    assert '| new anchors' in capsys.readouterr().out


@pytest.mark.slow
def test_keypoint_objects_of_several_sizes_count_once_each(run_tool, read_tables, toy, capsys):
    sizes = [0.05] * 15 + [0.01, 0.1]
    values = [f'data_root={toy}', f'model.head.keypoint_size={sizes}'.replace(' ', '')]
    assert run_tool(TOOL, CONFIG, '--cfg-options', *values) is None
    recalls = [float(table[-1]['recall']) for table in read_tables(capsys.readouterr().out)]
    assert recalls == pytest.approx([2 / 3, 1], abs=1e-4)


@pytest.mark.slow
def test_data_without_boxes_are_refused(run_tool, toy, tmp_path):
    path = tmp_path / 'empty.json'
    content = json.loads((toy / 'annotations/person_keypoints_train.json').read_text())
    path.write_text(json.dumps(content | dict(annotations=[])))
    message = run_tool(TOOL, CONFIG, '--cfg-options', f'data_root={toy}', f'train_ann={path}')
    assert message == 'error: the 4 training images have no box to fit anchors to'


def test_an_existing_file_is_not_replaced(run_tool, options):
    message = run_tool(TOOL, CONFIG, '--out', CONFIG, *options)
    assert message == f'error: --out {CONFIG} exists; give another name'


def test_a_config_without_data_is_refused(run_tool):
    message = run_tool(TOOL, 'configs/_base_/models/kapao_n.py')
    assert message.startswith('error: configs/_base_/models/kapao_n.py cannot train KAPAO')
