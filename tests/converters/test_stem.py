# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch
from mmdet.models.backbones.csp_darknet import Focus, SPPBottleneck
from torch import nn
from torch.nn import functional

from kapao_mm.converters.stem import focus_from_conv, rgb_focus_from_bgr

DOUBLE = dict(dtype=torch.double)


def focus(images, weight):
    """The convolution of MMDetection's Focus stem, without batch norm and activation."""
    stem = Focus(3, len(weight), 3).double()
    stem.conv = nn.Conv2d(12, len(weight), 3, padding=1, bias=False, **DOUBLE)
    stem.conv.weight.data = weight
    return stem(images)


@pytest.mark.parametrize('size', [(32, 32), (64, 34), (2, 6)])
def test_focus_stem_computes_the_6_x_6_convolution(size):
    images, weight = torch.randn(2, 3, *size, **DOUBLE), torch.randn(5, 3, 6, 6, **DOUBLE)
    expected = functional.conv2d(images, weight, stride=2, padding=2)
    torch.testing.assert_close(focus(images, focus_from_conv(weight)), expected)


def test_every_number_of_the_6_x_6_kernel_is_kept_once():
    weight = torch.arange(4 * 3 * 36.0).view(4, 3, 6, 6)
    assert focus_from_conv(weight).flatten().sort().values.equal(weight.flatten())


def test_stem_for_bgr_images_computes_the_same_from_rgb_images():
    images, weight = torch.rand(2, 3, 16, 16, **DOUBLE) * 255, torch.randn(5, 12, 3, 3, **DOUBLE)
    found = focus(images.flip(1) / 255, rgb_focus_from_bgr(weight))
    torch.testing.assert_close(found, focus(images, weight))


@pytest.mark.parametrize('size', [3, 5])
def test_one_pool_applied_three_times_equals_three_larger_pools(size):
    pyramid = SPPBottleneck(8, 8, kernel_sizes=(size, 2 * size - 1, 3 * size - 2))
    pool, images = nn.MaxPool2d(size, 1, size // 2), torch.randn(2, 4, 19, 23)
    pooled = images
    for larger in pyramid.poolings:
        pooled = pool(pooled)
        assert pooled.equal(larger(images))
