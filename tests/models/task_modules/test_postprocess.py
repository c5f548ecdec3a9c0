# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kapao_mm.models.task_modules.postprocess import (
    Candidates,
    _suppress_alone,
    _suppress_together,
    class_nms,
    decode,
    detect,
)
from kapao_mm.structures import OUTPUT_NAMES, InferenceSettings


def candidates(*rows):
    """Makes candidates of one image, rows of (x1, score, label) with boxes of 10 px.

    The first keypoint is at the index of the row, so that kept candidates can be told apart.
    """
    x, scores, labels = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    x = x.float()
    return Candidates(
        scores=scores,
        labels=labels,
        bboxes=torch.stack((x, x * 0, x + 10, x * 0 + 10), 2),
        keypoints=torch.arange(len(rows)).view(1, -1, 1, 1).expand(-1, -1, 1, 2),
    )


def detect_by_name(objects, settings, num_categories):
    outputs = detect(objects, settings, num_categories, class_nms)
    return dict(zip(OUTPUT_NAMES, outputs, strict=True))


def kept(objects, settings, num_categories=1):
    """Returns the indices of the kept pose objects and keypoint objects of one image."""
    outputs = detect_by_name(objects, settings, num_categories)
    order = objects.scores[0].tolist()
    return [
        [order.index(score) for score in outputs[f'{kind}_scores'].tolist()]
        for kind in ('pose_objects', 'keypoint_objects')
    ]


def test_overlap_suppresses_inside_a_class_only(inference_settings):
    objects = candidates((0, 0.9, 1), (1, 0.8, 1), (1, 0.7, 2), (30, 0.6, 1))
    assert kept(objects, inference_settings()) == [[], [0, 2, 3]]


def test_poses_and_keypoint_objects_have_their_own_thresholds(inference_settings):
    # The IoU of neighbors is 7/13 = 0.54: poses stay, keypoint objects do not.
    objects = candidates((0, 0.9, 1), (3, 0.8, 1), (0, 0.12, 0), (3, 0.15, 0), (60, 0.15, 1))
    assert kept(objects, inference_settings()) == [[3, 2], [0]]


def test_poses_and_keypoint_objects_have_their_own_limits(inference_settings):
    rows = [(20 * i, 0.9 - i / 100, i % 2) for i in range(8)]
    assert kept(candidates(*rows), inference_settings(max_objects=3)) == [[0, 2, 4], [1, 3, 5]]


def test_equal_iou_thresholds_share_one_limit(inference_settings):
    rows = [(20 * i, 0.9 - i / 100, i % 2) for i in range(8)]
    shared = dict(max_objects=3, pose_iou_thr=0.25)
    assert kept(candidates(*rows), inference_settings(**shared)) == [[0, 2], [1]]
    # Keypoint objects below their own threshold take part, and are dropped at the end.
    strict = inference_settings(**shared, keypoint_score_thr=0.895)
    assert kept(candidates(*rows), strict) == [[0, 2], []]
    # A higher threshold for pose objects needs two suppressions.
    apart = inference_settings(**shared, pose_score_thr=0.3)
    assert kept(candidates(*rows), apart) == [[0, 2, 4], [1, 3, 5]]


def test_only_the_candidates_with_the_highest_scores_take_part(inference_settings):
    rows = [(0, 0.5, 1), (30, 0.9, 1), (60, 0.7, 1)]
    assert kept(candidates(*rows), inference_settings(max_candidates=2)) == [[], [1, 2]]
    outputs = detect(candidates(*rows), inference_settings(), 1, class_nms, num_candidates=2)
    assert outputs[-2].tolist() == pytest.approx([0.9, 0.7])


def test_regressed_keypoints_stay_with_their_pose(inference_settings):
    objects = candidates((0, 0.5, 0), (30, 0.4, 1), (60, 0.9, 0))
    outputs = detect_by_name(objects, inference_settings(), 1)
    assert outputs['pose_objects_keypoints'][:, 0, 0].tolist() == [2, 0]


def test_large_coordinates_do_not_blur_the_overlap(inference_settings):
    # The IoU is just above and just below the threshold, with the 200th class far out.
    box = [2000.0, 2000, 2100, 2100]
    near = [2000.0, 2000, 2100, 2000 + 100 * 0.2501]
    far = [2000.0, 2000, 2100, 2000 + 100 * 0.2499]
    for other, count in ((near, 1), (far, 2)):
        objects = Candidates(
            scores=torch.tensor([[0.9, 0.8]]),
            labels=torch.tensor([[200, 200]]),
            bboxes=torch.tensor([[box, other]]),
            keypoints=torch.zeros(1, 2, 200, 2),
        )
        assert len(kept(objects, inference_settings())[1]) == count


def test_suppression_is_inside_a_class_and_an_image():
    bboxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.9, 0.8, 0.7], [0, 0.8, 0.7]])
    labels = torch.tensor([[0, 0, 1], [0, 0, 0]])
    kept = class_nms(bboxes, scores, labels, 2, 0.5, 300)
    assert kept.tolist() == [[True, False, True], [False, True, False]]
    kept = class_nms(bboxes, scores, labels, 2, 0.5, 1)
    assert kept.tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize('many', [1, 1000])
@pytest.mark.parametrize('max_compared', [1, 100, 20_000])
def test_a_gpu_suppresses_the_same_with_fewer_waits(many, max_compared):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 60, 2, generator=generator) * 60 - 30
    bboxes = torch.cat((corners, corners + 20), 2)
    scores = torch.rand(3, 60, generator=generator).sort(1, descending=True).values
    scores[:, ::7] = 0
    scores[1] = 0
    labels = torch.randint(3, (3, 60), generator=generator)
    alone = _suppress_alone(bboxes, scores, labels, 0.3, 300, many)
    together = _suppress_together(bboxes, scores, labels, 3, 0.3, max_compared)
    assert torch.equal(alone, together)
    assert 20 < alone.sum() < (scores > 0).sum() - 20
    limited = _suppress_alone(bboxes, scores, labels, 0.3, 5, many)
    assert torch.equal(limited, alone & (alone.cumsum(1) <= 5))


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


def keep_slowly(boxes, scores, labels, s):
    """The two suppressions of one image, or the one that serves both."""
    limits = s.max_candidates, s.max_objects
    objects = (boxes, scores, labels)
    if s.pose_iou_thr == s.keypoint_iou_thr and s.keypoint_score_thr >= s.pose_score_thr:
        kept = suppress_slowly(*objects, scores > s.pose_score_thr, s.pose_iou_thr, *limits)
        keypoints = [i for i in kept if labels[i] >= 2 and scores[i] > s.keypoint_score_thr]
        return [i for i in kept if labels[i] < 2], keypoints
    poses = (labels < 2) & (scores > s.pose_score_thr)
    keypoints = (labels >= 2) & (scores > s.keypoint_score_thr)
    return (
        suppress_slowly(*objects, poses, s.pose_iou_thr, *limits),
        suppress_slowly(*objects, keypoints, s.keypoint_iou_thr, *limits),
    )


@pytest.mark.slow
@hypothesis_settings(max_examples=2000)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), num_images=st.integers(1, 3))
def test_a_batch_equals_its_images_candidate_by_candidate(seed, count, num_images):
    rng = np.random.default_rng(seed)
    settings = InferenceSettings(
        pose_score_thr=rng.choice([0.1, 0.3]),
        pose_iou_thr=rng.choice([0.25, 0.65]),
        keypoint_score_thr=rng.choice([0.1, 0.2, 0.4]),
        keypoint_iou_thr=0.25,
        fusion_score_thr=0.3,
        fusion_distance=50,
        max_candidates=int(rng.choice([5, 100])),
        max_objects=int(rng.choice([3, 100])),
    )
    shape = (num_images, count)
    scores = rng.permutation(num_images * count).reshape(shape) / 90  # no two alike
    labels = rng.integers(0, 5, shape)  # two categories, three keypoint types
    corners = rng.uniform(-30, 30, (*shape, 2))
    boxes = np.dstack((corners, corners + rng.uniform(5, 40, (*shape, 2))))
    keypoints = np.repeat(corners[:, :, None], 3, 2)
    objects = Candidates(*map(torch.from_numpy, (scores, labels, boxes, keypoints)))
    outputs = {name: x.numpy() for name, x in detect_by_name(objects, settings, 2).items()}
    for i in range(num_images):
        expected = keep_slowly(boxes[i], scores[i], labels[i], settings)
        for kind, rows in zip(('pose_objects', 'keypoint_objects'), expected, strict=True):
            of_image = outputs[f'{kind}_image'] == i
            found = {name: outputs[f'{kind}_{name}'][of_image] for name in ('scores', 'bboxes')}
            np.testing.assert_array_equal(found['scores'], scores[i][rows])
            np.testing.assert_array_equal(found['bboxes'], boxes[i][rows])


@pytest.mark.parametrize('thrs', [None, (0.3, 0.3), (0.6, 0.6), (0.2, 0.6), (0.6, 0.2)])
def test_decodes_exactly_the_outputs_above_their_threshold(thrs):
    torch.manual_seed(0)
    num_keypoints = 2
    grids = [torch.randn(2, 3, 3 * num_keypoints + 6, size, size) for size in (4, 2)]
    anchors = torch.rand(2, 3, 2) + 1
    found = decode(grids, anchors, [8, 16], num_keypoints, thrs)
    rows = torch.cat([grid.movedim(2, 4).flatten(1, 3) for grid in grids], 1).sigmoid()
    best, labels = rows[..., 5:8].max(2)  # (2, A): a category, two keypoint types
    scores = rows[..., 4] * best
    above = scores > torch.where(labels < 1, *(thrs or (0.0, 0.0)))
    for i in range(2):
        expected = scores[i, above[i]].sort()
        ours = found.scores[i][found.scores[i] > 0].sort()
        torch.testing.assert_close(ours.values, expected.values)
        kept = found.labels[i][found.scores[i] > 0][ours.indices]
        assert torch.equal(kept, labels[i, above[i]][expected.indices])


def test_one_output_decodes_as_the_paper_says():
    grid = torch.zeros(1, 1, 9, 2, 2)
    grid[0, 0, :, 1, 0] = torch.tensor([1.0, -1, 0.5, -0.5, 9, -9, 9, 2, -2])
    found = decode([grid], torch.tensor([[[2.0, 3.0]]]), [8], 1, (0.5, 0.5))
    sig = torch.sigmoid(torch.tensor([1.0, -1, 0.5, -0.5, 2, -2])).tolist()
    x, y = (2 * sig[0] - 0.5 + 0) * 8, (2 * sig[1] - 0.5 + 1) * 8
    w, h = (2 * sig[2]) ** 2 * 16, (2 * sig[3]) ** 2 * 24
    expected = torch.tensor([[[x - w / 2, y - h / 2, x + w / 2, y + h / 2]]])
    torch.testing.assert_close(found.bboxes, expected)
    vx, vy = (4 * sig[4] - 2) * 16 + 0, (4 * sig[5] - 2) * 24 + 8
    torch.testing.assert_close(found.keypoints, torch.tensor([[[[vx, vy]]]]))
    assert found.labels.tolist() == [[1]]
