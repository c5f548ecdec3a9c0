# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Counts parameters and multiply-adds."""

from collections import OrderedDict

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from torch import nn

from kapao_mm.models.kapao import KAPAO


def count_flops(model: KAPAO, input_hw: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Counts parameters and multiply-adds for one image, for each part of the network and in total.

    Only convolutions are counted, because batch norm is folded into them for inference.

    Args:
        model: Model to measure.
        input_hw: Size (h, w) of the network input, px.

    Returns:
        Parameters and multiply-adds by name of the part.
    """
    parts = dict(backbone=model.backbone, neck=model.neck, head=model.head.head_module)
    network = nn.Sequential(OrderedDict(parts)).eval()
    parameters = parameter_count(network)
    analyzer = FlopAnalyzer(network, torch.zeros(1, 3, *input_hw))
    counted = analyzer.unsupported_ops_warnings(False).by_module_and_operator()
    return {name or 'total': (parameters[name], counted[name]['conv']) for name in (*parts, '')}
