# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmengine.visualization import LocalVisBackend
from mmpose.structures import PoseDataSample

from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import PictureHook
from kapao_mm.errors import InputError
from kapao_mm.visualization import KAPAOVisualizer

META = read_metainfo(dict(from_file='configs/_base_/datasets/wheels.py'))


@pytest.fixture(autouse=True)
def _visualizer():
    KAPAOVisualizer.get_instance('pictures')


@pytest.fixture
def samples(tmp_path):
    """Five predictions; two of the images have the same name."""
    found = []
    for name in ('a/1.jpg', 'b/1.jpg', 'a/2.jpg', 'a/3.png', 'a/4.jpg'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((60, 80, 3), 50, np.uint8))
        poses = InstanceData(
            bboxes=np.array([[10.0, 10, 60, 50]]),
            bbox_scores=np.array([0.9]),
            keypoints=np.full((1, 5, 2), 30.0),
            keypoint_scores=np.ones((1, 5)),
            keypoints_visible=np.ones((1, 5)),
            keypoints_fused=np.ones((1, 5), bool),
            pose_keypoints=np.full((1, 5, 2), 30.0),
            labels=np.array([0]),
        )
        found.append(PoseDataSample(metainfo=dict(img_path=str(path)), pred_instances=poses))
    return found


@pytest.fixture
def draw(tmp_path, samples):
    """Makes a function that draws the samples and returns the names of the pictures."""

    def run(stage='val', epoch=1, hook=None, **options):
        hook = hook or PictureHook(enable=True, out_dir=str(tmp_path / 'out'), **options)
        evaluator = SimpleNamespace(dataset_meta=META)
        runner = SimpleNamespace(
            work_dir=str(tmp_path),
            timestamp='now',
            epoch=epoch,
            val_evaluator=evaluator,
            test_evaluator=evaluator,
        )
        hook.before_run(runner)
        getattr(hook, f'before_{stage}_epoch')(runner)
        for index, batch in enumerate((samples[:2], samples[2:])):
            getattr(hook, f'after_{stage}_iter')(runner, index, {}, batch)
        files = (tmp_path / hook.out_dir).rglob('*') if hook.out_dir else []
        return sorted(str(f.relative_to(hook.out_dir)) for f in files if f.is_file())

    return run


ALL = ['1.jpg', '1_2.jpg', '2.jpg', '3.png', '4.jpg']


def test_each_validation_draws_its_images(draw, tmp_path):
    hook = PictureHook(enable=True, out_dir=str(tmp_path / 'out'), interval=1)
    assert draw(hook=hook, epoch=1) == [f'epoch_1/{name}' for name in ALL]
    assert len(draw(hook=hook, epoch=2)) == 10
    picture = cv2.imread(str(tmp_path / 'out/epoch_2/3.png'))
    assert picture.shape == (60, 80, 3)
    assert len(np.unique(picture)) > 2  # something is drawn


def test_repeated_test_overwrites_its_images(draw):
    assert draw('test', interval=1) == draw('test', interval=1) == ALL


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_every_nth_image_is_drawn(draw, stage):
    assert [name.rpartition('/')[2] for name in draw(stage, interval=2)] == ALL[::2]


def test_relative_folder_is_below_the_folder_of_the_run(draw, tmp_path):
    draw('test', hook=PictureHook(enable=True, out_dir='pictures', interval=1))
    assert len(list((tmp_path / 'now/pictures').iterdir())) == 5


def test_disabled_hook_draws_nothing(draw, tmp_path):
    assert draw(hook=PictureHook(enable=False, out_dir=str(tmp_path / 'out'))) == []


def test_unwritable_folder_is_reported_before_the_run(draw, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='folder .*file/a cannot be written to'):
        draw(hook=PictureHook(enable=True, out_dir=str(tmp_path / 'file/a')))


class Backend:
    """Keeps name, step and size of each picture."""

    def __init__(self):
        self.pictures = []

    def add_image(self, name, picture, step):
        self.pictures.append((name, step, picture.shape[1::-1]))


@pytest.fixture
def backend():
    """A visual backend of the current visualizer, beside the local one."""
    backend = Backend()
    backends = KAPAOVisualizer.get_current_instance()._vis_backends
    backends['other'] = backend
    yield backend
    backends.clear()


def test_visual_backends_get_the_first_pictures_of_each_epoch(draw, backend):
    hook = PictureHook(enable=None, interval=2, max_pictures=2)
    draw(hook=hook, epoch=1)
    draw(hook=hook, epoch=2)
    names = ['val_1', 'val_2']
    expected = [(name, epoch, (80, 60)) for epoch in (1, 2) for name in names]
    assert backend.pictures == expected


def test_pictures_of_tests_go_to_visual_backends(draw, backend):
    draw('test', hook=PictureHook(enable=None, interval=5), epoch=0)
    assert backend.pictures == [('test_1', 0, (80, 60))]


def test_the_ground_truth_is_beside_the_prediction(draw, backend, samples):
    poses = samples[0].pred_instances
    samples[0].gt_instances = InstanceData(
        bboxes=poses.bboxes, keypoints=poses.keypoints, keypoints_visible=poses.keypoints_visible
    )
    draw(hook=PictureHook(enable=None, interval=1, max_pictures=2))
    (_, _, (width, height)), (*_, alone) = backend.pictures
    assert width == 160 and height > 60
    assert alone == (80, 60)  # the second image has no ground truth


def test_the_local_backend_alone_gets_no_pictures_unless_asked(draw, backend, tmp_path):
    backends = KAPAOVisualizer.get_current_instance()._vis_backends
    backends.clear()
    local = backends['local'] = LocalVisBackend(str(tmp_path / 'local'))
    draw(hook=PictureHook(enable=None))
    assert not list((tmp_path / 'local').rglob('*.png'))
    draw(hook=PictureHook(enable=True), epoch=3)
    assert [p.name for p in Path(local._img_save_dir).iterdir()] == ['val_1_3.png']


def test_full_disk_is_reported_and_leaves_no_partial_file(draw, tmp_path, monkeypatch):
    def fail(path, content):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', fail)
    with pytest.raises(InputError, match='out/1.jpg cannot be written: No space left'):
        draw('test', interval=1)
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
