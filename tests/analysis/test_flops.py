# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import torch
from mmpose.registry import MODELS

from kapao_mm.analysis.flops import count_flops
from kapao_mm.utils.config import load_config


def multiply_adds(model, input_hw):
    """Counts by hand, convolution by convolution."""
    counts = {}

    def add(part):
        def hook(conv, inputs, output):
            weights = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
            counts[part] = counts.get(part, 0) + output.numel() * weights

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(add(name.partition('.')[0]))
    with torch.no_grad():
        model.head(model.extract_feat(torch.zeros(1, 3, *input_hw)))
    return counts


def test_every_convolution_and_parameter_is_counted(repo):
    model = MODELS.build(load_config(repo / 'configs/kapao/kapao_n_coco.py').model).eval()
    counts = count_flops(model, (64, 128))
    by_hand = multiply_adds(model, (64, 128))
    for part in ('backbone', 'neck', 'head'):
        parameters = sum(p.numel() for p in getattr(model, part).parameters())
        assert counts[part] == (parameters, by_hand[part])
    total = sum(p.numel() for p in model.parameters())
    assert counts['total'] == (total, sum(by_hand.values()))
