# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.export import export

from kapao_mm.models.utils import fused_convolution
from kapao_mm.models.utils.fused_convolution import fuse_convolutions

CALL = '_convolution_pointwise'
SILU = dict(type='SiLU', inplace=True)

if not fused_convolution._is_available(torch.float32):
    pytest.skip('this torch or CPU has no such call', allow_module_level=True)


@pytest.fixture
def network():
    """Convolutions with and without SiLU, of several strides, dilations and groups."""
    torch.manual_seed(0)
    layers = [
        ConvModule(3, 8, 3, stride=2, padding=1, act_cfg=SILU),
        ConvModule(8, 8, 1, act_cfg=SILU),
        ConvModule(8, 16, 3, padding=2, dilation=2, groups=2, act_cfg=SILU),
        nn.Conv2d(16, 5, 1),
    ]
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def calls(monkeypatch):
    """The activations of the fused calls that were made."""
    found, original = [], fused_convolution._call
    monkeypatch.setattr(
        fused_convolution, '_call', lambda *args: found.append(args[2]) or original(*args)
    )
    return found


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(('dtype', 'rtol'), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_the_fused_network_computes_the_same(network, images, calls, layout, dtype, rtol):
    network, images = (x.to(dtype).to(memory_format=layout) for x in (network, images))
    expected = network(images)
    fuse_convolutions(network)
    calls.clear()  # of the test whether the call is available
    found = network(images)
    assert calls == ['swish', 'swish', 'swish', 'none']
    assert found.dtype == dtype and found.stride() == expected.stride()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


def test_exported_networks_have_the_usual_operators(network, images):
    fuse_convolutions(network)
    traced = str(torch.jit.trace(network, images).inlined_graph)
    exported = str(export(network, (images,), strict=False).graph)
    for graph in (traced, exported):
        assert CALL not in graph and 'silu' in graph


def test_a_copy_uses_its_own_weights(network, images):
    fuse_convolutions(network)
    expected, other = network(images), copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.zero_()
    assert (other(images) == 0).all()
    assert torch.equal(network(images), expected)


@pytest.mark.parametrize(
    'layer',
    [
        ConvModule(3, 3, 1, act_cfg=dict(type='ReLU')),
        ConvModule(3, 3, 1, norm_cfg=dict(type='BN'), act_cfg=SILU),
        ConvModule(3, 3, 3, padding=1, padding_mode='reflect', act_cfg=SILU),
        ConvModule(3, 3, 1, order=('act', 'conv', 'norm'), act_cfg=SILU),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode='circular'),
        nn.Conv2d(3, 3, 3, padding='same'),
    ],
)
def test_other_layers_keep_their_result(layer, images, calls):
    layer = layer.eval().requires_grad_(False)
    expected = layer(images.clone())
    fuse_convolutions(layer)
    calls.clear()
    torch.testing.assert_close(layer(images.clone()), expected)
    assert 'swish' not in calls


def test_nothing_changes_where_the_call_is_missing(network, images, calls, monkeypatch):
    monkeypatch.setattr(fused_convolution, '_is_available', lambda _: False)
    expected = network(images)
    fuse_convolutions(network)
    assert torch.equal(network(images), expected) and not calls
