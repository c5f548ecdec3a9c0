# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch

from kapao_mm.models.task_modules.candidates import Candidates, decode_candidates, keep_objects

CFG = dict(
    pose_score_thr=0.1,
    pose_iou_thr=0.65,
    keypoint_score_thr=0.2,
    keypoint_iou_thr=0.25,
    max_candidates=30000,
    max_objects=300,
)


def candidates(*rows):
    """Rows of (x1, score, label) with boxes of 10 px."""
    x, scores, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    x = x.float()
    return Candidates(
        image=torch.zeros(len(rows), dtype=torch.long),
        scores=scores,
        labels=labels,
        boxes=torch.stack((x, x * 0, x + 10, x * 0 + 10), 1),
        keypoints=torch.zeros(len(rows), 1, 2),
    )


def test_overlap_suppresses_inside_a_class_only():
    objects = candidates((0, 0.9, 1), (1, 0.8, 1), (1, 0.7, 2), (30, 0.6, 1))
    assert keep_objects(objects, CFG).tolist() == [0, 2, 3]


def test_poses_come_first_and_have_their_own_thresholds():
    # IoU of neighbours is 7/13 = 0.54: poses stay, keypoint objects do not.
    objects = candidates((0, 0.9, 1), (3, 0.8, 1), (0, 0.12, 0), (3, 0.15, 0), (60, 0.15, 1))
    assert keep_objects(objects, CFG).tolist() == [3, 2, 0]


def test_limits_are_of_each_kind():
    rows = [(20 * i, 0.9 - i / 100, i % 2) for i in range(8)]
    kept = keep_objects(candidates(*rows), CFG | dict(max_objects=3))
    assert kept.tolist() == [0, 2, 4, 1, 3, 5]


def test_equal_iou_thresholds_share_one_limit():
    rows = [(20 * i, 0.9 - i / 100, i % 2) for i in range(8)]
    shared = CFG | dict(max_objects=3, pose_iou_thr=0.25)
    assert keep_objects(candidates(*rows), shared).tolist() == [0, 2, 1]
    # Keypoint objects below their own threshold take part, and are dropped at the end.
    strict = shared | dict(keypoint_score_thr=0.895)
    assert keep_objects(candidates(*rows), strict).tolist() == [0, 2]
    # Not when pose objects need more confidence.
    apart = shared | dict(pose_score_thr=0.3)
    assert keep_objects(candidates(*rows), apart).tolist() == [0, 2, 4, 1, 3, 5]


def test_only_the_most_confident_candidates_go_in():
    rows = [(0, 0.5, 1), (30, 0.9, 1), (60, 0.7, 1)]
    kept = keep_objects(candidates(*rows), CFG | dict(max_candidates=2))
    assert kept.tolist() == [1, 2]


def test_far_coordinates_do_not_blur_the_overlap():
    # IoU just above and just below the threshold, with the 200th class far out.
    box = [2000.0, 2000, 2100, 2100]
    near = [2000.0, 2000, 2100, 2000 + 100 * 0.2501]
    far = [2000.0, 2000, 2100, 2000 + 100 * 0.2499]
    for other, kept in ((near, 1), (far, 2)):
        objects = Candidates(
            image=torch.zeros(2, dtype=torch.long),
            scores=torch.tensor([0.9, 0.8]),
            labels=torch.tensor([200, 200]),
            boxes=torch.tensor([box, other]),
            keypoints=torch.zeros(2, 1, 2),
        )
        assert len(keep_objects(objects, CFG)) == kept


@pytest.mark.parametrize('score_thr', [-1.0, 0.3, 0.6])
def test_decodes_exactly_the_outputs_above_the_threshold(score_thr):
    torch.manual_seed(0)
    num_keypoints = 2
    grids = [torch.randn(2, 3, size, size, 3 * num_keypoints + 6) for size in (4, 2)]
    anchors = torch.rand(2, 3, 2) + 1
    found = decode_candidates(grids, anchors, [8, 16], num_keypoints, score_thr)
    rows = torch.cat([grid.flatten(0, 3) for grid in grids]).sigmoid()
    scores = rows[:, 4] * rows[:, 5:8].amax(1)
    torch.testing.assert_close(found.scores, scores[scores > score_thr])


def test_one_output_decodes_as_the_paper_says():
    grid = torch.zeros(1, 1, 2, 2, 9)
    grid[0, 0, 1, 0] = torch.tensor([1.0, -1, 0.5, -0.5, 9, -9, 9, 2, -2])
    found = decode_candidates([grid], torch.tensor([[[2.0, 3.0]]]), [8], 1, 0.5)
    sig = torch.sigmoid(torch.tensor([1.0, -1, 0.5, -0.5, 2, -2])).tolist()
    x, y = (2 * sig[0] - 0.5 + 0) * 8, (2 * sig[1] - 0.5 + 1) * 8
    w, h = (2 * sig[2]) ** 2 * 16, (2 * sig[3]) ** 2 * 24
    expected = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
    torch.testing.assert_close(found.boxes, expected)
    vx, vy = (4 * sig[4] - 2) * 16 + 0, (4 * sig[5] - 2) * 24 + 8
    torch.testing.assert_close(found.keypoints, torch.tensor([[[vx, vy]]]))
    assert found.labels.tolist() == [1]
