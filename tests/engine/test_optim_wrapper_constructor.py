# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
from mmengine.optim import build_optim_wrapper
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.engine import KAPAOOptimWrapper
from kapao_mm.engine.optim_wrapper_constructor import parameter_groups
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config


@pytest.fixture(scope='module')
def cfg(repo):
    return load_config(repo / 'configs/kapao/kapao_n_coco.py')


@pytest.fixture(scope='module')
def model(cfg):
    return MODELS.build(cfg.model)


def test_each_parameter_is_in_the_group_of_its_kind(model):
    groups = {group['name']: group['params'] for group in parameter_groups(model)}
    assert list(groups) == ['weights', 'norms', 'biases']
    grouped = [id(p) for params in groups.values() for p in params]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    # 4D: convolutions; 1D: batch normalization and all biases
    assert all(p.ndim == 4 for p in groups['weights'])
    assert all(p.ndim == 1 for p in groups['norms'] + groups['biases'])
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {id(p) for p in groups['norms']} == {id(m.weight) for m in norms}
    assert {id(p) for p in groups['weights']} == {id(m.weight) for m in convs}


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    model[1].requires_grad_(True)
    sizes = {group['name']: len(group['params']) for group in parameter_groups(model)}
    assert sizes == dict(weights=0, norms=1, biases=1)


def test_config_builds_the_wrapper_without_printing(cfg, model, capfd):
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert isinstance(wrapper, KAPAOOptimWrapper)
    assert [group['name'] for group in wrapper.param_groups] == ['weights', 'norms', 'biases']
    assert wrapper.optimizer.defaults['nesterov']
    assert capfd.readouterr() == ('', '')


def test_paramwise_cfg_is_refused(cfg, model):
    with pytest.raises(InputError, match='paramwise_cfg does not work'):
        build_optim_wrapper(model, dict(cfg.optim_wrapper, paramwise_cfg=dict(bias_lr_mult=2)))
