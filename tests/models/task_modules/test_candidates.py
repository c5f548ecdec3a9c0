# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def kept(objects, cfg=CFG):
    """The kept candidates of one image, pose objects first."""
    return torch.cat(keep_objects(objects, 1, cfg)).tolist()


def test_overlap_suppresses_inside_a_class_only():
    objects = candidates((0, 0.9, 1), (1, 0.8, 1), (1, 0.7, 2), (30, 0.6, 1))
    assert kept(objects) == [0, 2, 3]


def test_poses_and_keypoint_objects_have_their_own_thresholds():
    # IoU of neighbours is 7/13 = 0.54: poses stay, keypoint objects do not.
    objects = candidates((0, 0.9, 1), (3, 0.8, 1), (0, 0.12, 0), (3, 0.15, 0), (60, 0.15, 1))
    poses, points = keep_objects(objects, 1, CFG)
    assert (poses.tolist(), points.tolist()) == ([3, 2], [0])


def test_limits_are_of_each_kind():
    rows = [(20 * i, 0.9 - i / 100, i % 2) for i in range(8)]
    assert kept(candidates(*rows), CFG | dict(max_objects=3)) == [0, 2, 4, 1, 3, 5]


def test_equal_iou_thresholds_share_one_limit():
    rows = [(20 * i, 0.9 - i / 100, i % 2) for i in range(8)]
    shared = CFG | dict(max_objects=3, pose_iou_thr=0.25)
    assert kept(candidates(*rows), shared) == [0, 2, 1]
    # Keypoint objects below their own threshold take part, and are dropped at the end.
    strict = shared | dict(keypoint_score_thr=0.895)
    assert kept(candidates(*rows), strict) == [0, 2]
    # Not when pose objects need more confidence.
    apart = shared | dict(pose_score_thr=0.3)
    assert kept(candidates(*rows), apart) == [0, 2, 4, 1, 3, 5]


def test_only_the_most_confident_candidates_go_in():
    rows = [(0, 0.5, 1), (30, 0.9, 1), (60, 0.7, 1)]
    assert kept(candidates(*rows), CFG | dict(max_candidates=2)) == [1, 2]


def test_far_coordinates_do_not_blur_the_overlap():
    # IoU just above and just below the threshold, with the 200th class far out.
    box = [2000.0, 2000, 2100, 2100]
    near = [2000.0, 2000, 2100, 2000 + 100 * 0.2501]
    far = [2000.0, 2000, 2100, 2000 + 100 * 0.2499]
    for other, count in ((near, 1), (far, 2)):
        objects = Candidates(
            image=torch.zeros(2, dtype=torch.long),
            scores=torch.tensor([0.9, 0.8]),
            labels=torch.tensor([200, 200]),
            boxes=torch.tensor([box, other]),
            keypoints=torch.zeros(2, 1, 2),
        )
        assert len(kept(objects)) == count


def iou(a, b):
    """Of two boxes xyxy."""
    width, height = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def suppress_slowly(boxes, scores, labels, mask, iou_thr, max_candidates, max_objects):
    """One image's candidates one after the other, as docs/method.md says."""
    order = [i for i in np.argsort(-scores, kind='stable').tolist() if mask[i]]
    kept = []
    for i in order[:max_candidates]:
        rivals = [j for j in kept if labels[j] == labels[i]]
        if not any(iou(boxes[i], boxes[j]) > iou_thr for j in rivals):
            kept.append(i)
    return kept[:max_objects]


def keep_slowly(boxes, scores, labels, cfg):
    """The two suppressions of one image, or the one that serves both."""
    limits = cfg['max_candidates'], cfg['max_objects']
    pose_thr, keypoint_thr = cfg['pose_score_thr'], cfg['keypoint_score_thr']
    pose_iou, keypoint_iou = cfg['pose_iou_thr'], cfg['keypoint_iou_thr']
    objects = (boxes, scores, labels)
    if pose_iou == keypoint_iou and keypoint_thr >= pose_thr:
        kept = suppress_slowly(*objects, scores > pose_thr, pose_iou, *limits)
        points = [i for i in kept if labels[i] >= 2 and scores[i] > keypoint_thr]
        return [i for i in kept if labels[i] < 2], points
    poses = (labels < 2) & (scores > pose_thr)
    points = (labels >= 2) & (scores > keypoint_thr)
    return (
        suppress_slowly(*objects, poses, pose_iou, *limits),
        suppress_slowly(*objects, points, keypoint_iou, *limits),
    )


@pytest.mark.slow
@settings(max_examples=2000)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 60), num_images=st.integers(1, 3))
def test_a_batch_equals_its_images_candidate_by_candidate(seed, count, num_images):
    rng = np.random.default_rng(seed)
    cfg = dict(
        pose_score_thr=rng.choice([0.1, 0.3]),
        pose_iou_thr=rng.choice([0.25, 0.65]),
        keypoint_score_thr=rng.choice([0.1, 0.2, 0.4]),
        keypoint_iou_thr=0.25,
        max_candidates=rng.choice([5, 100]),
        max_objects=rng.choice([3, 100]),
    )
    image = rng.integers(0, num_images, count)
    scores = rng.permutation(count) / 60  # no two alike
    labels = rng.integers(0, 5, count)  # two categories, three keypoint types
    corners = rng.uniform(-30, 30, (count, 2))
    boxes = np.hstack((corners, corners + rng.uniform(5, 40, (count, 2))))
    objects = Candidates(*map(torch.from_numpy, (image, scores, labels, boxes, corners[:, None])))
    expected = [[], []]
    for i in range(num_images):
        index = np.flatnonzero(image == i)
        found = keep_slowly(boxes[index], scores[index], labels[index], cfg)
        for kind, rows in zip(expected, found, strict=True):
            kind.extend(index[rows].tolist())
    assert [k.tolist() for k in keep_objects(objects, num_images, cfg, 2)] == expected


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
