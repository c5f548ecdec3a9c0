# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError
from kapao_mm.models.utils.inference import prepare_for_inference, stride_stem


@pytest.fixture
def model(model_cfg, golden_checkpoint):
    """A network whose batch norm has been trained."""
    model = MODELS.build(model_cfg().model).eval()
    model.load_state_dict(load_weights_only(golden_checkpoint)['state_dict'])
    return model


@pytest.fixture
def images(golden):
    return torch.from_numpy(golden('forward')['image']) / 255


def grids(model, images):
    with torch.inference_mode():
        return model.head(model.extract_feat(images))


def test_folded_batch_norm_gives_the_grids_of_the_reference(model, images, golden):
    prepare_for_inference(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    weight = model.neck.downsamples[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for i, grid in enumerate(grids(model, images)):
        expected = np.moveaxis(golden('forward')[f'grid{i}'], 4, 2)
        np.testing.assert_allclose(grid, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_applies_to_all_but_the_head(model, images):
    exact = grids(model, images)
    prepare_for_inference(model, 'bfloat16')
    dtypes = [module.weight.dtype for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert dtypes == [torch.bfloat16] * (len(dtypes) - 4) + [torch.float32] * 4
    for rounded, grid in zip(grids(model, images), exact, strict=True):
        assert rounded.dtype == torch.float32
        error = (rounded - grid).square().mean() / grid.var()
        assert 0 < error < 1e-3


def test_a_compiled_network_computes_the_same(model, images, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, 'compile', lambda f: lambda *x: calls.append(f) or f(*x))
    exact = grids(model, images)
    prepare_for_inference(model, compile_network=True)
    compiled = grids(model, images)
    assert len(calls) == 2
    for ours, grid in zip(compiled, exact, strict=True):
        torch.testing.assert_close(ours, grid, rtol=1e-4, atol=1e-4)


def test_norm_before_its_convolution_is_kept(model):
    cfg = dict(norm_cfg=dict(type='BN'), order=('norm', 'conv', 'act'))
    model.neck.other = ConvModule(4, 4, 1, **cfg)
    prepare_for_inference(model)
    assert isinstance(model.neck.other.norm, nn.BatchNorm2d)


def test_unknown_precision_is_an_error(model):
    with pytest.raises(InputError, match="'int8' is none of float32, bfloat16, float16"):
        prepare_for_inference(model, 'int8')


def test_the_stem_becomes_one_strided_convolution_that_computes_the_same(model, golden):
    images = torch.from_numpy(golden('forward')['image']) / 255
    with torch.no_grad():
        expected = model.backbone.stem(images)
        stride_stem(model)
        found = model.backbone.stem(images)
    assert model.backbone.stem.conv.stride == (2, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01
    stem = model.backbone.stem
    stride_stem(model)  # another stem is kept
    assert model.backbone.stem is stem
