# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.utils.config import load_config

TOOL = 'analysis_tools/compare_predictions.py'
CONFIG = 'configs/kapao/kapao_n_toy.py'


@pytest.mark.slow
def test_half_precision_is_compared_on_the_test_data(
    run_tool, read_tables, repo, toy, tmp_path, capsys
):
    options = {
        'data_root': str(toy),
        'input_size': 128,
        'test_dataloader.num_workers': 0,
        'model.test_cfg.max_objects': 1,
        'model.test_cfg.pose_score_thr': 0.1,
        'model.test_cfg.fusion_score_thr': 0.1,
    }
    torch.manual_seed(0)
    model = MODELS.build(load_config(repo / CONFIG, options).model)
    for conv in model.head.head_module.convs:
        conv.bias.detach().view(3, -1)[:, 5] += 1  # pose objects everywhere
    checkpoint, out = tmp_path / 'a.pth', tmp_path / 'a.json'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    args = [checkpoint, '--precisions', 'float32', 'bfloat16', '--out', out, '--cfg-options']
    assert run_tool(TOOL, CONFIG, *args, *(f'{k}={v}' for k, v in options.items())) is None
    rows = json.loads(out.read_text())['rows']
    same, rounded = rows['PyTorch, float32'], rows['PyTorch, bfloat16']
    assert same['poses'] == same['found'] > 0
    assert same['largest_gap'] < 1e-3 < rounded['largest_gap']
    printed = capsys.readouterr().out
    assert f'2 images of {CONFIG}; PyTorch, float32: AP' in printed
    (table,) = read_tables(printed)
    assert [row['model'] for row in table] == list(rows)[1:]
    assert table[0]['poses'] == f'{same["found"]} of {same["poses"]}'


def test_something_to_compare_is_required(run_tool, capsys):
    assert run_tool(TOOL, CONFIG, 'a.pth') == 2
    assert 'give --precisions or --model-files' in capsys.readouterr().err
