# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math

import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.errors import InputError


def test_biases_start_at_the_expected_rates(head):
    before = [conv.bias.detach().clone() for conv in head.head_module.convs]
    head.init_weights()
    for conv, old, stride in zip(head.head_module.convs, before, head.strides, strict=True):
        added = (conv.bias.detach() - old).view(3, 57)
        expected = torch.zeros(57)
        expected[4] = math.log(8 / (640 / stride) ** 2)
        expected[5:23] = math.log(0.6 / (18 - 0.99))
        torch.testing.assert_close(added, expected.expand(3, 57))


def test_grids_have_the_shape_of_the_spec(head):
    feats = [torch.rand(2, width, 4, 6) for width in (32, 64, 96, 128)]
    assert [grid.shape for grid in head(feats)] == [(2, 3, 4, 6, 57)] * 4


def test_keypoint_sizes_may_differ_by_type(model_cfg):
    cfg = model_cfg(num_keypoints=2).model.head
    cfg.keypoint_size = [0.05, 0.1]
    head = MODELS.build(cfg)
    torch.testing.assert_close(head.keypoint_sizes, torch.tensor([0.05, 0.1]))


def test_a_wrong_number_of_keypoint_sizes_is_named(model_cfg):
    cfg = model_cfg().model.head
    cfg.keypoint_size = [0.05, 0.1]
    with pytest.raises(InputError, match='2 values.* 17 keypoint types'):
        MODELS.build(cfg)


def test_the_state_dict_holds_convolutions_only(head):
    assert {name.rsplit('.', 1)[1] for name in head.state_dict()} == {'weight', 'bias'}
