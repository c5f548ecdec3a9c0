# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch
from mmdet.models.backbones import CSPDarknet

from kapao_mm.models import KAPAOCSPDarknet

SIZES = dict(arch='P6', widen_factor=0.125, deepen_factor=0.33, out_indices=(2, 3, 4, 5))


def build(cls, **kwargs):
    model = cls(**SIZES, **kwargs)
    model.eval()  # MMDetection's method returns None
    return model


def test_backbone_is_that_of_mmdetection_by_default():
    expected = build(CSPDarknet)
    found = build(KAPAOCSPDarknet)
    found.load_state_dict(expected.state_dict())
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(found(images), expected(images), rtol=0, atol=0)


@pytest.mark.parametrize('frozen_stages', [-1, 5])
def test_pooling_can_be_the_last_layer(frozen_stages):
    plain = build(CSPDarknet)
    changed = build(KAPAOCSPDarknet, spp_last=True, frozen_stages=frozen_stages)
    order = {'stage5.1.': 'stage5.2.', 'stage5.2.': 'stage5.1.'}
    weights = {order.get(k[:9], k[:9]) + k[9:]: v for k, v in plain.state_dict().items()}
    changed.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 64)
    *fine, middle = plain(images)[:3]
    conv, pooling, csp_layer = plain.stage5
    expected = (*fine, middle, pooling(csp_layer(conv(middle))))
    torch.testing.assert_close(changed(images), expected, rtol=0, atol=0)
    changed.train()
    assert any(p.requires_grad for p in changed.stage5.parameters()) == (frozen_stages == -1)
