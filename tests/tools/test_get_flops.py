# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.utils.config import load_config

TOOL = 'analysis_tools/get_flops.py'
CONFIG = 'configs/kapao/kapao_n_coco.py'


@pytest.fixture
def model(repo):
    return MODELS.build(load_config(repo / CONFIG).model).eval()


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


def test_counts_are_those_of_every_convolution_and_parameter(load_file, model):
    counts = load_file(f'tools/{TOOL}').count(model, (64, 128))
    by_hand = multiply_adds(model, (64, 128))
    for part in ('backbone', 'neck', 'head'):
        parameters = sum(p.numel() for p in getattr(model, part).parameters())
        assert counts[part] == (parameters, by_hand[part])
    total = sum(p.numel() for p in model.parameters())
    assert counts['total'] == (total, sum(by_hand.values()))


@pytest.mark.slow
def test_the_table(run_tool, capsys):
    assert run_tool(TOOL, CONFIG, '--input-size', '64x128') is None
    first, _, header, *rows = capsys.readouterr().out.splitlines()
    assert first == f'{CONFIG}: one image of 64 x 128 px'
    assert header.split() == ['parameters', 'G', 'multiply-adds', 'GFLOPs', '(two', 'each)']
    assert [row.split()[0] for row in rows] == ['backbone', 'neck', 'head', 'total']
    once, twice = map(float, rows[-1].split()[-2:])
    assert twice == pytest.approx(2 * once, abs=2e-3) and once > 0


@pytest.mark.slow
def test_the_input_size_is_the_configs_or_multiples_of_64(run_tool, capsys):
    assert run_tool(TOOL, 'configs/kapao/kapao_n_overfit.py') is None
    assert 'one image of 384 x 384 px' in capsys.readouterr().out
    assert run_tool(TOOL, CONFIG, '--input-size', '100') == 2
    assert '100: give multiples of 64 px' in capsys.readouterr().err
