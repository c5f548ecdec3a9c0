# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""MMPose's own inferencer, functions, demos and tools run KAPAO as this package does."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import mmpose
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmpose.apis import MMPoseInferencer, inference_bottomup, init_model
from mmpose.registry import DATASETS, MODELS

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.datasets import read_metainfo
from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.errors import InputError

MIM = Path(mmpose.__file__).parent / '.mim'
CONFIG = """
_base_ = '{repo}/configs/kapao/kapao_n_toy.py'
steps = [
    dict(type='CheckedLoadImage'),
    dict(type='Letterbox', input_size=128, move_labels=False),
    dict(type='PackKAPAOInputs'),
]
toy = dict(
    data_root='{toy}',
    ann_file='annotations/person_keypoints_train.json',
    data_prefix=dict(img='train2017/'),
)
train_dataloader = dict(dataset=toy)
val_dataloader = dict(dataset=dict(pipeline=steps, **toy))
test_dataloader = dict(dataset=dict(pipeline=steps, **toy))
"""


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    return make_toy_dataset(tmp_path_factory.mktemp('toy'), 'easy', 2, 1, image_size=(120, 90))


@pytest.fixture(scope='module')
def config(repo, toy):
    path = toy / 'config.py'
    path.write_text(CONFIG.format(repo=repo, toy=toy))
    return str(path)


@pytest.fixture(scope='module')
def checkpoint(config, toy):
    """Weights that see twelve poses of score 0.4 everywhere, below the threshold for pictures."""
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model)
    for conv in model.head.head_module.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, -10)
    bias = (
        model.head.head_module.convs[3].bias.detach().view(model.head.head_module.num_anchors, -1)
    )
    bias[:, 4], bias[:, 5] = 0.53, 0.53
    meta = dict(dataset_meta=read_metainfo(cfg.train_dataloader.dataset.metainfo))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), toy / 'a.pth')
    return str(toy / 'a.pth')


@pytest.fixture(scope='module')
def image(toy):
    path = str(toy / 'picture.jpg')
    cv2.imwrite(path, np.full((90, 120, 3), 90, np.uint8))
    return path


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a script of MMPose."""

    def run(script: str, *args: object) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [script, *map(str, args)])
        runpy.run_path(str(MIM / script), run_name='__main__')

    return run


def test_bottom_up_inference_has_the_settings_for_demo(config, checkpoint, image):
    model = init_model(config, checkpoint, device='cpu')
    (found,) = inference_bottomup(model, image)
    assert len(found.pred_instances) == 0
    model.settings['demo'] = replace(model.settings['demo'], pose_score_thr=0.3)
    (found,) = inference_bottomup(model, cv2.imread(image)[..., 0])
    assert len(found.pred_instances) > 0


@pytest.mark.slow
def test_samples_of_a_dataset_are_evaluated(config, checkpoint):
    model = init_model(config, checkpoint, device='cpu')
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    with torch.no_grad():
        (found,) = model.test_step(pseudo_collate([dataset[0]]))
    assert len(found.pred_instances) > 0


@pytest.mark.slow
def test_thresholds_of_the_inferencer_act_as_in_ours(config, checkpoint, image):
    theirs = MMPoseInferencer(config, checkpoint, device='cpu')
    ours = KAPAOInferencer(config, checkpoint, device='cpu')
    counts = []
    for thresholds in (dict(), dict(bbox_thr=0.3), dict(bbox_thr=0.3, nms_thr=1.0), dict()):
        (found,) = next(theirs(image, **thresholds))['predictions']
        counts.append(len(found))
        (prediction,) = next(ours(image, **thresholds))['predictions']
        assert len(prediction['poses']) == len(found)
    assert counts[0] == counts[3] == 0 < counts[1] < counts[2] == 12
    with pytest.raises(InputError, match='nms_thr must be between 0 and 1, got 3'):
        next(theirs(image, nms_thr=3))


@pytest.mark.slow
def test_demos_run(run, config, checkpoint, image, tmp_path):
    device = ('--device', 'cpu')
    run(
        *('demo/bottomup_demo.py', config, checkpoint, '--input', image, '--output-root', 'a'),
        *('--save-predictions', *device),
    )
    assert json.loads((tmp_path / 'a/results_picture.json').read_text())['instance_info'] == []
    run('demo/image_demo.py', image, config, checkpoint, '--out-file', 'b/x.jpg', *device)
    weights = ('--pose2d', config, '--pose2d-weights', checkpoint)
    out = ('--vis-out-dir', 'c', '--pred-out-dir', 'c')
    run('demo/inferencer_demo.py', image, *weights, *out, '--bbox-thr', 0.3, '--draw-bbox', *device)
    assert len(json.loads((tmp_path / 'c/picture.json').read_text())) > 0
    for name, drawn in (('a/picture.jpg', False), ('b/x.jpg', False), ('c/picture.jpg', True)):
        picture = cv2.imread(str(tmp_path / name)).astype(int)
        assert picture.shape == (90, 120, 3)
        assert (np.abs(picture - 90).max() > 60) == drawn


@pytest.mark.slow
@pytest.mark.parametrize('phase', ['train', 'val'])
@pytest.mark.parametrize('mode', ['transformed', 'original'])
def test_datasets_can_be_browsed(run, config, toy, tmp_path, phase, mode):
    np.random.seed(0)
    run(
        *('tools/misc/browse_dataset.py', config, '--not-show', '--output-dir', 'out'),
        *('--phase', phase, '--mode', mode),
    )
    written = sorted((tmp_path / 'out').iterdir())
    assert len(written) == 2
    if phase == 'val':  # labels lie on the same people in the image and in the input
        size = (120, 90) if mode == 'original' else (128, 128)
        assert cv2.imread(str(written[0])).shape[1::-1] == size
