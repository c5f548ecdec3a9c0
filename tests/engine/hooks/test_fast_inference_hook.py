# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMFullyShardedDataParallel
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.engine import FastInferenceHook
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config


@pytest.fixture(scope='module')
def cfg(repo):
    widths = [16] * 4
    options = {
        'model.backbone.widen_factor': 0.03,
        'model.neck.in_channels': widths,
        'model.head.in_channels': widths,
    }
    return load_config(repo / 'configs/kapao/kapao_n_coco.py', options)


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize('tta', [False, True])
def test_test_uses_an_optimized_copy_of_the_model(cfg, tta):
    model = MODELS.build(cfg.model)
    if tta:
        model = MODELS.build(dict(cfg.tta_model, module=model))
    runner = SimpleNamespace(model=model)
    hook = FastInferenceHook('bfloat16')
    hook.before_test_epoch(runner)
    assert runner.model is not model and type(runner.model) is type(model)
    assert not norms(runner.model) and norms(model)
    inner = runner.model.module if tta else runner.model
    assert next(inner.neck.parameters()).dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    hook.after_test_epoch(runner)
    assert runner.model is model


def test_sharded_model_is_refused():
    runner = SimpleNamespace(model=object.__new__(MMFullyShardedDataParallel))
    with pytest.raises(InputError, match='do not work with MMFullyShardedDataParallel'):
        FastInferenceHook().before_test_epoch(runner)
