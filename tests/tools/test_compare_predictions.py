# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.utils.config import load_config

CONFIG = 'configs/kapao/kapao_n_toy.py'


@pytest.fixture(scope='module')
def tool(load_file):
    return load_file('tools/analysis_tools/compare_predictions.py')


def sample(boxes, scores, keypoints, fused):
    data = PoseDataSample()
    data.pred_instances = InstanceData(
        bboxes=np.array(boxes, float).reshape(-1, 4),
        bbox_scores=np.array(scores, float),
        keypoints=np.array(keypoints, float).reshape(len(boxes), 3, 2),
        keypoints_visible=np.ones((len(boxes), 3)),
        keypoints_fused=np.array(fused, bool).reshape(len(boxes), 3),
    )
    return data


BOXES = [[0, 0, 100, 100], [200, 0, 300, 100], [0, 0, 9, 9]]
POINTS = [[[1, 1], [2, 2], [3, 3]]] * 3
FUSED = [[1, 1, 0]] * 3


def test_poses_are_found_by_their_boxes(tool):
    expected = sample(BOXES, [0.9, 0.8, 0.1], POINTS, FUSED)
    moved = [[[1, 1.4], [2, 2], [3, 4]], [[1, 1], [2, 4], [3, 3]]]
    found = sample([BOXES[1], [1, 0, 101, 100]], [0.9, 0.8], moved[::-1], [[1, 1, 0], [1, 0, 0]])
    result = tool.compare(expected, found, score_thr=0.3)
    assert (result['poses'], result['found']) == (2, 2)
    assert (result['fused'], result['changed']) == (4, 1)
    np.testing.assert_allclose(result['gaps'], [0.4, 0, 2])
    np.testing.assert_allclose(result['regressed'], [1, 0])


@pytest.mark.parametrize('others', [[], [[0, 0, 100, 70]]])
def test_poses_without_an_equal_are_counted(tool, others):
    expected = sample(BOXES[:1], [0.9], POINTS[:1], FUSED[:1])
    count = len(others)
    found = sample(others, [0.9] * count, POINTS[:count], FUSED[:count])
    result = tool.compare(expected, found, score_thr=0.3)
    assert (result['poses'], result['found'], len(result['gaps'])) == (1, 0, 0)


@pytest.mark.slow
def test_half_precision_is_compared_on_the_test_data(run_tool, repo, toy, tmp_path, capsys):
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
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    args = [CONFIG, tmp_path / 'a.pth', '--precisions', 'float32', 'bfloat16']
    args += [
        '--out',
        tmp_path / 'a.json',
        '--cfg-options',
        *(f'{k}={v}' for k, v in options.items()),
    ]
    assert run_tool('analysis_tools/compare_predictions.py', *args) is None
    rows = json.loads((tmp_path / 'a.json').read_text())['rows']
    same, rounded = rows['PyTorch, float32'], rows['PyTorch, bfloat16']
    assert same['poses'] == same['found'] > 0
    assert same['largest_gap'] < 1e-3 < rounded['largest_gap']
    assert '2 images of' in capsys.readouterr().out


def test_something_to_compare_is_asked_for(run_tool):
    assert run_tool('analysis_tools/compare_predictions.py', CONFIG, 'a.pth') == 2
