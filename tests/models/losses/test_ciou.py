# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, complete_box_iou

from kapao_mm.models.losses.ciou import complete_iou

boxes = st.tuples(*[st.floats(-20, 20, width=32)] * 2, *[st.floats(0.5, 30, width=32)] * 2)


@settings(deadline=None)
@given(boxes, boxes)
def test_equals_torchvision(pred, target):
    pred, target = torch.tensor([pred]).double(), torch.tensor([target]).double()
    expected = complete_box_iou(
        box_convert(pred, 'cxcywh', 'xyxy'), box_convert(target, 'cxcywh', 'xyxy')
    )
    torch.testing.assert_close(complete_iou(pred, target), expected[0], atol=1e-5, rtol=1e-5)


def test_alpha_is_active_below_half_overlap():
    # IoU 1/3 and a distance of 0: the difference to it is alpha x v.
    pred, target = torch.tensor([[0.0, 0, 3, 1]]), torch.tensor([[0.0, 0, 1, 1]])
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(3)) ** 2
    expected = 1 / 3 - v * v / (v - 1 / 3 + 1)
    assert complete_iou(pred, target).item() == pytest.approx(expected, abs=1e-5)


def test_alpha_has_no_gradient():
    pred = torch.tensor([[0.0, 0, 3, 1]], requires_grad=True)
    target = torch.tensor([[0.0, 0, 1, 1]])
    complete_iou(pred, target).sum().backward()
    w = torch.tensor(3.0, requires_grad=True)
    v = 4 / math.pi**2 * (math.pi / 4 - torch.atan(w)) ** 2
    iou = 1 / w
    (iou - (v / (v - iou + 1)).detach() * v).backward()
    torch.testing.assert_close(pred.grad[0, 2], w.grad, atol=1e-5, rtol=1e-4)
