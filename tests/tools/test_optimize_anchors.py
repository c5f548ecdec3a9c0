# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.utils.config import load_config

TOOL = 'analysis_tools/optimize_anchors.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'


@pytest.fixture(scope='module')
def tool(load_file):
    return load_file(f'tools/{TOOL}')


@pytest.fixture(autouse=True)
def _short_search(monkeypatch):
    monkeypatch.setattr('kapao_mm.analysis.anchors.GENERATIONS', 20)


@pytest.fixture
def options(toy):
    """--cfg-options of the toy data at an input where keypoint objects are 6.4 px."""
    return ['--cfg-options', f'data_root={toy}', 'input_size=128']


def original_sides(toy):
    """Widths and heights of all people, (n, 2) original-image px."""
    content = json.loads((toy / 'annotations/person_keypoints_train.json').read_text())
    return np.array([annotation['bbox'][2:] for annotation in content['annotations']])


def table(printed, title):
    """The rows under a title: recall, anchors and levels by kind of objects."""
    rows = printed.partition(f'\n{title} ')[2].splitlines()[1:4]
    return {row[:20].strip(): [float(number) for number in row[20:].split()] for row in rows}


@pytest.mark.slow
def test_anchors_that_match_no_keypoint_object_are_replaced(
    run_tool, toy, options, tmp_path, capsys
):
    out = tmp_path / 'new/anchors.py'
    assert run_tool(TOOL, CONFIG, '--out', out, *options) is None
    printed = capsys.readouterr().out
    first = f'{CONFIG}: {len(original_sides(toy))} pose objects in 4 images, input 128 px, ratio'
    assert first in printed
    before, after = (table(printed, f'anchors {when}') for when in ('now', 'found'))
    assert list(before) == list(after) == ['pose objects', 'in training', 'keypoint objects']
    assert before['keypoint objects'] == [0] * 6
    assert [row[0] for row in after.values()] == [1, 1, 1]

    found = load_config(out)
    _, _, snippet = out.read_text().partition('\n\n')
    assert snippet in printed
    assert printed.endswith(f'\nNext: kapao train {out}, with the same --cfg-options\n')
    assert np.shape(found.model.head.anchors) == (4, 3, 2)
    assert found.model.head.anchors != load_config(CONFIG).model.head.anchors
    assert found.max_epochs == load_config(CONFIG).max_epochs


@pytest.mark.slow
def test_anchors_that_fit_stay(run_tool, toy, tmp_path, capsys):
    args = [CONFIG, '--out', tmp_path / 'anchors.py', '--cfg-options', f'data_root={toy}']
    assert run_tool(TOOL, *args) is None
    printed = capsys.readouterr().out
    assert table(printed, 'anchors now')['keypoint objects'] == [1, 2, 1, 0, 0, 0]  # 12.8 px
    assert printed.endswith('They fit: no recall is below 0.98 (--force finds others).\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('flags', [['--force'], ['--target-recall', 1.1]])
def test_others_are_found_on_request(run_tool, toy, capsys, flags):
    assert run_tool(TOOL, CONFIG, *flags, '--cfg-options', f'data_root={toy}') is None
    assert 'anchors found' in capsys.readouterr().out


@pytest.mark.slow
def test_keypoint_objects_of_several_sizes_count_once_each(run_tool, toy, capsys):
    sizes = [0.05] * 15 + [0.01, 0.1]
    values = [f'data_root={toy}', f'model.head.keypoint_size={sizes}'.replace(' ', '')]
    assert run_tool(TOOL, CONFIG, '--cfg-options', *values) is None
    printed = capsys.readouterr().out
    assert table(printed, 'anchors now')['keypoint objects'][0] == pytest.approx(2 / 3, abs=1e-4)
    assert table(printed, 'anchors found')['keypoint objects'][0] == 1


@pytest.mark.slow
def test_every_dataset_in_wrappers_is_read_with_its_transforms(tool, toy):
    dataset = load_config(CONFIG, dict(data_root=str(toy))).train_dataloader.dataset
    resize, affine, *_ = dataset.pipeline[1:]
    other = dict(type='Other')
    wrapped = dict(
        type='CombinedDataset',
        pipeline=[affine],
        datasets=[
            dict(type='RepeatDataset', times=3, dataset={**dataset, 'pipeline': [resize]}),
            {**dataset, 'pipeline': [other]},
        ],
    )
    found = list(tool.inner_datasets(wrapped))
    assert [transforms for _, transforms in found] == [[resize, affine], [other, affine]]
    for cfg, _ in found:
        sides, images = tool.pose_sides(cfg, 256)
        assert images == 4


@pytest.mark.slow
def test_sides_are_those_in_the_network_input(tool, toy):
    dataset = load_config(CONFIG, dict(data_root=str(toy))).train_dataloader.dataset
    sides, _ = tool.pose_sides(dataset, 160)  # of images 320 x 240
    expected = original_sides(toy) / 2
    np.testing.assert_allclose(np.sort(sides, 0), np.sort(expected, 0), atol=0.5)  # some clipped


@pytest.mark.parametrize('transform', ['RandomScaleTranslate', 'MosaicScaleTranslate'])
def test_training_sees_scaled_boxes_but_not_all(tool, transform):
    affine = dict(type=transform, scale_range=(0.1, 1.9))

    def scale(*side):
        return tool.scale_sides(np.array([side], float), [dict(type='Other'), affine], 128)

    widths = np.arange(3, 20)  # of 2 px they would leave
    np.testing.assert_allclose(scale(10, 30), np.stack((widths, 3 * widths), 1))
    np.testing.assert_allclose(scale(100, 2000)[[0, -1]], [(10, 128), (128, 128)])
    np.testing.assert_allclose(scale(4, 100), [(6.8, 128), (7.2, 128), (7.6, 128)])  # < 20 : 1
    assert tool.scale_sides(np.ones((2, 2)), [dict(type='Other')], 128).tolist() == [[1, 1]] * 2


@pytest.mark.slow
def test_data_without_boxes_are_an_error(run_tool, toy, tmp_path):
    path = tmp_path / 'empty.json'
    content = json.loads((toy / 'annotations/person_keypoints_train.json').read_text())
    path.write_text(json.dumps(content | dict(annotations=[])))
    message = run_tool(TOOL, CONFIG, '--cfg-options', f'data_root={toy}', f'train_ann={path}')
    assert message == 'error: the 4 training images have no box to fit anchors to'


def test_an_existing_file_is_not_replaced(run_tool, options):
    message = run_tool(TOOL, CONFIG, '--out', CONFIG, *options)
    assert message == f'error: --out {CONFIG} exists; give another name'


def test_a_config_without_data_is_an_error(run_tool):
    message = run_tool(TOOL, 'configs/_base_/models/kapao_n.py')
    assert message.startswith('error: configs/_base_/models/kapao_n.py is no config to train KAPAO')
