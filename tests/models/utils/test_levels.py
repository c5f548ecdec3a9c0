# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config

WIDTHS = [64, 128, 256]
ANCHORS = [[(19, 27), (44, 40), (38, 94)]] * 3


def three_levels(repo, backbone, **head):
    """The config of KAPAO-N with a backbone and neck of three levels, and a changed head."""
    cfg = load_config(repo / 'configs/kapao/kapao_n_toy.py', {}).model
    cfg.backbone = backbone
    cfg.neck.in_channels = WIDTHS
    weights = head.pop('obj_level_weights', None)
    cfg.head.update(head)
    if weights:
        cfg.head.loss.obj_level_weights = weights
    return cfg


BACKBONES = [  # the second has three levels unless told otherwise
    dict(type='mmdet.ResNet', depth=18, base_channels=32, out_indices=(1, 2, 3)),
    dict(type='mmdet.CSPDarknet', arch='P5', widen_factor=0.25, deepen_factor=0.33),
]


@pytest.mark.parametrize('backbone', BACKBONES)
def test_backbone_with_three_levels_names_what_the_other_parts_need(repo, backbone):
    with pytest.raises(InputError) as caught, torch.device('meta'):
        MODELS.build(three_levels(repo, backbone))
    message = str(caught.value)
    assert 'backbone.out_indices 3, neck.in_channels 3' in message
    for name in ('in_channels', 'strides', 'anchors', 'loss.obj_level_weights'):
        assert f'head.{name} 4' in message
    assert 'give 3 values each' in message
    assert 'model.head.strides=[8, 16, 32]' in message
    assert '\n' not in message


@pytest.mark.parametrize('missing', ['in_channels', 'strides', 'anchors', 'obj_level_weights'])
def test_each_setting_that_is_left_at_four_levels_is_reported(repo, missing):
    head = dict(
        in_channels=WIDTHS, strides=[8, 16, 32], anchors=ANCHORS, obj_level_weights=[4, 1, 0.4]
    )
    del head[missing]
    with pytest.raises(InputError, match=rf'head\.(loss\.)?{missing} 4'), torch.device('meta'):
        MODELS.build(three_levels(repo, BACKBONES[0], **head))


@pytest.mark.slow
@pytest.mark.parametrize('backbone', BACKBONES)
def test_model_with_three_levels_predicts_three_grids(repo, backbone):
    model = MODELS.build(
        three_levels(
            repo,
            backbone,
            in_channels=WIDTHS,
            strides=[8, 16, 32],
            anchors=ANCHORS,
            obj_level_weights=[4, 1, 0.4],
        )
    )
    grids = model.head(model.extract_feat(torch.rand(1, 3, 64, 64)))
    assert [grid.shape[-1] for grid in grids] == [8, 4, 2]
