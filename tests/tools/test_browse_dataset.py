# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpose.registry import DATASETS

from kapao_mm.utils.config import load_config

TOOL = 'misc/browse_dataset.py'
TOY = 'configs/kapao/kapao_n_toy.py'


@pytest.fixture
def browse(run_tool, toy, tmp_path, monkeypatch, capsys):
    """Makes a function that draws toy people, and returns the message, output and pictures."""
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)

    def run(*args, config=TOY, **options):
        options = [f'{key}={value}' for key, value in (dict(data_root=toy) | options).items()]
        folder = tmp_path / 'pictures'
        message = run_tool(TOOL, config, '--out-dir', folder, *args, '--cfg-options', *options)
        pictures = {path.stem: cv2.imread(str(path)) for path in sorted(folder.glob('*.jpg'))}
        return message, capsys.readouterr().out, pictures

    return run


@pytest.fixture
def tool(load_file):
    return load_file(f'tools/{TOOL}')


@pytest.mark.slow
@pytest.mark.parametrize('phase, count', [('train', 4), ('val', 2), ('test', 2)])
def test_every_phase_is_drawn_with_its_objects_side_by_side(browse, phase, count):
    message, out, pictures = browse('--phase', phase, input_size=128)
    assert message is None
    assert len(pictures) == count
    assert f'{phase}: {count} of {count} samples, with ' in out
    assert ' 0 pose objects' not in out
    assert all(name.startswith(f'{phase}_00000') for name in pictures)
    for picture in pictures.values():
        assert picture.shape[1] == 2 * 7 * 128  # two panels, enlarged


def test_labels_of_test_pipelines_move_with_the_image(tool, repo, toy):
    cfg = load_config(repo / TOY, dict(data_root=str(toy), input_size=128)).val_dataloader.dataset
    dataset = DATASETS.build(tool.prepare(cfg, 'transformed'))
    item = dataset[0]['data_samples']
    sides = np.array([person['bbox'] for person in item.raw_ann_info])[:, 2:]
    boxes = item.gt_instance_labels.bboxes
    assert len(boxes)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sides * 128 / 320, atol=1)


@pytest.mark.slow
def test_original_images_are_drawn_as_on_disk(browse, toy):
    message, _, pictures = browse('--mode', 'original', '--num', 2)
    assert message is None
    assert [name[:12] for name in pictures] == ['train_000000', 'train_000003']
    for name, picture in pictures.items():
        (path,) = toy.glob(f'train2017/{name[13:]}.*')
        image = cv2.imread(str(path))
        assert image.shape == (240, 320, 3)
        panel, expected = picture[-720:, :960].astype(int), cv2.resize(image, (960, 720))
        difference = np.abs(panel - expected).max(-1)  # of what is drawn, and JPEG's
        assert np.median(difference) < 10
        assert np.median(np.abs(panel[..., ::-1] - expected).max(-1)) > 10


def test_datasets_inside_wrappers_are_adapted(browse, toy, tool):
    inner = dict(
        pipeline=[dict(type='Letterbox'), dict(type='KeypointConverter')], image_cache='ram'
    )
    wrapped = tool.prepare(dict(datasets=[dict(dataset=inner)], pipeline=[]), 'original')
    (dataset,) = wrapped['datasets']
    assert dataset['dataset'] == dict(pipeline=[dict(type='KeypointConverter')], image_cache=None)
    moved = tool.prepare(inner, 'transformed')['pipeline'][0]
    assert moved == dict(type='Letterbox', move_labels=True)
    assert inner['image_cache'] == 'ram'


@pytest.mark.parametrize(
    'display, flags, show, folder',
    [
        ('', [], False, 'work_dirs/a/browse_dataset'),
        ('', ['--output-dir', 'there'], False, 'there'),
        (':0', [], True, None),
        (':0', ['--out-dir', 'there'], True, 'there'),
        (':0', ['--not-show'], False, 'work_dirs/a/browse_dataset'),
    ],
)
def test_pictures_are_saved_without_a_display(tool, monkeypatch, display, flags, show, folder):
    monkeypatch.setenv('DISPLAY', display)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.setattr('sys.argv', [TOOL, 'configs/a.py', *flags])
    assert tool.destination(tool.parse_args()) == (show, folder and Path(folder))


def test_phase_without_dataloader_is_an_error(browse):
    message, _, _ = browse('--phase', 'val', config='configs/kapao/kapao_s_crowdpose.py')
    assert message.startswith('error: configs/kapao/kapao_s_crowdpose.py has no val_dataloader')


def test_wrong_number_of_keypoints_is_an_error(browse):
    message, _, pictures = browse(**{'model.head.num_keypoints': 14})
    assert message.startswith(
        'error: model.head.num_keypoints is 14, but the dataset of train_dataloader (coco) has 17'
    )
    assert not pictures
