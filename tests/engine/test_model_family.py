# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Names of weights are those of real models of MMDetection, MMPose and torchvision."""

import importlib

import pytest
import torch
from mmdet.models.dense_heads import RetinaHead, RTMDetSepBNHead, YOLOXHead
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.engine import check_checkpoint, check_training_start, read_checkpoint
from kapao_mm.engine.model_family import YOLOX, model_family, pickled_family
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config

MMPOSE_MODELS = [
    ('rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py', 'an RTMO model of MMPose'),
    ('rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py', 'an RTMPose model of MMPose'),
    ('yoloxpose/coco/yoloxpose_s_8xb32-300e_coco-640.py', 'a YOLOXPose model of MMPose'),
    ('dekr/coco/dekr_hrnet-w32_8xb10-140e_coco-512x512.py', 'a DEKR model of MMPose'),
    (
        'topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py',
        'a heatmap or SimCC model of MMPose',
    ),
    ('simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py', 'a heatmap or SimCC model of MMPose'),
]


def build_mmpose(name):
    folder = importlib.import_module('mmpose').__path__[0]
    model = Config.fromfile(f'{folder}/.mim/configs/body_2d_keypoint/{name}').model
    with torch.device('meta'):
        return MODELS.build(model)


@pytest.mark.slow
@pytest.mark.parametrize(('config', 'family'), MMPOSE_MODELS)
def test_models_of_mmpose_are_named(config, family):
    assert model_family(build_mmpose(config).state_dict()) == family


def test_models_of_mmdetection_are_named():
    points = dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32])
    boxes = dict(type='DistancePointBBoxCoder')
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        heads = [
            YOLOXHead(80, 8),
            RTMDetSepBNHead(80, 8, anchor_generator=points, bbox_coder=boxes),
            RetinaHead(80, 8),
        ]
    found = [model_family(nn.ModuleDict(dict(bbox_head=head)).state_dict()) for head in heads]
    assert found == [YOLOX, 'an RTMDet detector of MMDetection', 'a detector of MMDetection']


def test_unknown_models_have_no_family():
    assert model_family(nn.Linear(2, 2).state_dict()) is None
    assert model_family([]) is None
    assert pickled_family(['models.yolo.Model', 'torch.nn.modules.conv.Conv2d']) is None


@pytest.fixture(scope='module')
def model(repo):
    """KAPAO-N on the meta device."""
    with torch.device('meta'):
        return MODELS.build(load_config(repo / 'configs/kapao/kapao_n_toy.py', {}).model)


def save_names(path, names, key='state_dict'):
    torch.save({key: {name: torch.zeros(1) for name in names}}, path)
    return path


@pytest.mark.parametrize('check', [check_checkpoint, check_training_start])
def test_checkpoint_of_a_yolox_detector_says_how_to_take_what_fits(tmp_path, model, check):
    path = save_names(tmp_path / 'x.pth', ['bbox_head.multi_level_cls_convs.0.0.conv.weight'])
    with pytest.raises(InputError) as caught:
        check(path, model)
    assert f'it is {YOLOX}; take what fits: kapao convert {path} x_kapao.pth' in str(caught.value)
    assert 'use the config' not in str(caught.value)


@pytest.mark.parametrize('check', [check_checkpoint, check_training_start])
def test_checkpoint_of_another_family_says_what_it_is(tmp_path, model, check):
    path = save_names(tmp_path / 'a.pth', ['head.gau.beta'])
    with pytest.raises(InputError, match='it is an RTMPose model of MMPose, whose layers do not'):
        check(path, model)


def test_checkpoint_of_kapao_of_another_size_is_sent_to_its_config(tmp_path, model):
    names = ['head.head_module.convs.0.weight', 'backbone.stem.conv.conv.weight']
    with pytest.raises(InputError, match='use the config of its size'):
        check_training_start(save_names(tmp_path / 'a.pth', names), model)


@pytest.mark.parametrize('key', ['model', None])
def test_file_of_bare_weights_says_what_it_is(tmp_path, key):
    weights = {'layer1.0.conv1.weight': torch.zeros(1)}
    torch.save({key: weights} if key else weights, tmp_path / 'resnet.pth')
    with pytest.raises(InputError, match=r'has no state_dict \(it is a ResNet of torchvision\)'):
        read_checkpoint(tmp_path / 'resnet.pth')
