# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import DATASETS, MODELS
from mmpose.structures import PoseDataSample

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


@pytest.fixture
def head(repo):
    cfg = load_config(repo / TOY).model.head
    cfg.update(num_keypoints=[2, 1], keypoint_size=[0.1, 0.2, 0.3])
    return MODELS.build(cfg)


def sample(**more):
    labels = dict(
        bboxes=torch.tensor([[10.0, 20, 30, 60], [0, 0, 50, 50]]),
        keypoints=torch.tensor([[[10.0, 20], [30, 60], [0, 0]], [[0, 0], [0, 0], [90, 10]]]),
        keypoints_visible=torch.tensor([[1.0, 1, 0], [0, 0, 1]]),
        labels=torch.tensor([0, 1]),
    )
    return PoseDataSample(gt_instance_labels=InstanceData(**labels), metainfo=more)


def test_objects_are_those_of_training(tool, head):
    found = tool.with_objects(sample(), (50, 100), head)
    poses, points = found.pred_instances, found.pred_keypoint_objects
    assert poses.labels.tolist() == [0, 1]
    np.testing.assert_allclose(poses.bboxes, [[10, 20, 30, 60], [0, 0, 50, 50]])
    # 30, 60 is below the input
    assert poses.keypoints_visible.tolist() == [[True, False, False], [False, False, True]]
    assert points.labels.tolist() == [0, 2]
    np.testing.assert_allclose(points.bboxes, [[5, 15, 15, 25], [75, -5, 105, 25]], rtol=1e-6)


def test_crowd_regions_are_no_objects(tool, head):
    found = tool.with_objects(sample(raw_ann_info=[dict(iscrowd=1), {}]), (100, 100), head)
    assert found.pred_instances.labels.tolist() == [1]
    assert found.pred_keypoint_objects.labels.tolist() == [2]


def test_a_test_image_without_people_has_no_objects(tool, head):
    empty = PoseDataSample(gt_instance_labels=InstanceData(), metainfo=dict(raw_ann_info=None))
    found = tool.with_objects(empty, (100, 100), head)
    assert len(found.pred_instances) == len(found.pred_keypoint_objects) == 0


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


def test_in_evaluation_labels_move_with_the_image(tool, repo, toy):
    cfg = load_config(repo / TOY, dict(data_root=str(toy), input_size=128)).val_dataloader.dataset
    dataset = DATASETS.build(tool.prepare(cfg, 'transformed'))
    item = dataset[0]['data_samples']
    sides = np.array([person['bbox'] for person in item.raw_ann_info])[:, 2:]
    boxes = item.gt_instance_labels.bboxes
    assert len(boxes)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sides * 128 / 320, atol=1)


def test_small_images_are_enlarged_with_their_objects(tool, head):
    found = tool.with_objects(sample(), (100, 300), head)
    image = np.arange(90000, dtype=np.uint8).reshape(100, 300, 3)
    larger = tool.enlarge(image, found)
    assert larger.shape == (300, 900, 3)
    np.testing.assert_array_equal(larger[1::3, 1::3], image)
    np.testing.assert_allclose(found.pred_instances.bboxes[0], [30, 60, 90, 180])
    np.testing.assert_allclose(found.pred_instances.keypoints[0, 1], [90, 180])
    np.testing.assert_allclose(found.pred_keypoint_objects.bboxes[0], [-15, 15, 75, 105])


@pytest.mark.slow
def test_original_images_are_as_on_disk(browse, toy):
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


def test_wrappers_are_looked_into(browse, toy, tool):
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
def test_without_a_display_pictures_are_saved(tool, monkeypatch, display, flags, show, folder):
    monkeypatch.setenv('DISPLAY', display)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.setattr('sys.argv', [TOOL, 'configs/a.py', *flags])
    assert tool.destination(tool.parse_args()) == (show, folder and Path(folder))


def test_a_phase_without_data_is_an_error(browse):
    message, _, _ = browse('--phase', 'val', config='configs/kapao/kapao_s_crowdpose.py')
    assert message.startswith('error: configs/kapao/kapao_s_crowdpose.py has no val_dataloader')


def test_another_number_of_keypoints_is_an_error(browse):
    message, _, pictures = browse(**{'model.head.num_keypoints': 14})
    assert message.startswith(
        'error: model.head.num_keypoints is 14, but the dataset (coco) has 17'
    )
    assert not pictures
