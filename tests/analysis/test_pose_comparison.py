# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from kapao_mm.analysis.pose_comparison import compare_poses, summarize_poses


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


def test_poses_are_matched_by_their_boxes():
    expected = sample(BOXES, [0.9, 0.8, 0.1], POINTS, FUSED)
    moved = [[[1, 1.4], [2, 2], [3, 4]], [[1, 1], [2, 4], [3, 3]]]
    found = sample([BOXES[1], [1, 0, 101, 100]], [0.9, 0.8], moved[::-1], [[1, 1, 0], [1, 0, 0]])
    result = compare_poses(expected, found, score_thr=0.3)
    assert (result['poses'], result['found']) == (2, 2)
    assert (result['fused'], result['changed']) == (4, 1)
    np.testing.assert_allclose(result['gaps'], [0.4, 0, 2])
    np.testing.assert_allclose(result['regressed'], [1, 0])
    total = summarize_poses([(expected, found)] * 2, score_thr=0.3)
    assert (total['poses'], total['fused'], total['changed']) == (4, 8, 2)
    assert (total['fused_near'], total['regressed_near']) == pytest.approx((2 / 3, 1 / 2))
    assert (total['median_gap'], total['largest_gap']) == pytest.approx((0.4, 2))


@pytest.mark.parametrize('others', [[], [[0, 0, 100, 70]]])
def test_poses_without_a_match_are_counted(others):
    expected = sample(BOXES[:1], [0.9], POINTS[:1], FUSED[:1])
    count = len(others)
    found = sample(others, [0.9] * count, POINTS[:count], FUSED[:count])
    total = summarize_poses([(expected, found)], score_thr=0.3)
    assert (total['poses'], total['found'], total['median_gap']) == (1, 0, None)
