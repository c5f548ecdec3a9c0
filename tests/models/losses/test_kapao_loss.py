# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import MODELS

from kapao_mm.utils.config import load_config

K = 17


@pytest.fixture
def grids():
    torch.manual_seed(0)
    sizes = ((8, 12), (4, 6), (2, 3), (1, 2))
    return [torch.randn(2, 3, 3 * K + 6, *size, requires_grad=True) for size in sizes]


def people(*boxes, visible=1.0):
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    points = torch.linspace(0.2, 0.8, K)[None, :, None] * (boxes[:, None, 2:] - boxes[:, None, :2])
    keypoints = boxes[:, None, :2] + points
    categories = torch.zeros(len(boxes), dtype=torch.long)
    return boxes, keypoints, torch.full(keypoints.shape[:2], visible), categories


def loss(head, grids, *images):
    names = ('bboxes', 'keypoints', 'keypoints_visible', 'labels')
    labels = [InstanceData(**dict(zip(names, image, strict=True))) for image in images]
    return head.loss_by_feat(grids, labels)


def test_images_without_people_have_objectness_loss_only(head, grids):
    terms = loss(head, grids, people(), people())
    assert terms['loss_obj'] > 0
    assert [terms[name].item() for name in ('loss_box', 'loss_cls', 'loss_kpt')] == [0, 0, 0]
    sum(terms.values()).backward()
    assert all(grid.grad.isfinite().all() for grid in grids)


def test_person_without_labeled_keypoints_has_no_keypoint_loss(head, grids):
    terms = loss(head, grids, people((10, 5, 60, 50), visible=0.0), people())
    assert terms['loss_kpt'] == 0
    assert terms['loss_box'] > 0
    assert terms['loss_cls'] > 0
    sum(terms.values()).backward()
    outputs = torch.cat([grid.grad.flatten(3) for grid in grids], 3)
    assert not outputs[:, :, 6 + K :].any()
    assert outputs.isfinite().all()


def test_unlabeled_keypoints_add_no_loss(head, grids):
    boxes, keypoints, visible, categories = people((10, 5, 60, 50))
    visible[0, 3] = 0
    moved = keypoints.clone()
    moved[0, 3] += 7
    terms = [
        loss(head, grids, (boxes, k, visible, categories), people()) for k in (keypoints, moved)
    ]
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in terms[0])


def test_terms_are_means_over_the_batch_times_its_size(head, grids):
    image = people((10, 5, 60, 50), (30, 10, 90, 60))
    one = loss(head, [grid[:1] for grid in grids], image)
    twice = loss(head, [grid[:1].repeat(2, 1, 1, 1, 1) for grid in grids], image, image)
    for name in one:
        torch.testing.assert_close(twice[name], 2 * one[name])


def test_the_highest_ciou_sets_the_target_of_a_shared_cell(head, grids):
    # The same person twice, once a little off: the order must not matter.
    first, second = (10.0, 5, 60, 50), (11.0, 6, 58, 47)
    there = loss(head, grids, people(first, second), people())
    back = loss(head, grids, people(second, first), people())
    for name in there:
        torch.testing.assert_close(there[name], back[name])


def test_loss_is_computed_in_float32(head, grids):
    half = [grid.detach().bfloat16() for grid in grids]
    full = [grid.float() for grid in half]
    image = people((10, 5, 60, 50))
    for name, value in loss(head, half, image, people()).items():
        torch.testing.assert_close(value, loss(head, full, image, people())[name])


def test_sizes_and_gains_go_by_the_longer_side(head, grids):
    seen = []
    head.keypoint_sizes[:] = 0.5
    head.loss_module.forward = lambda grids, matches, anchors, size: seen.extend([matches, size])
    loss(head, grids, people((10, 5, 60, 50)), people())  # an input of 64 x 96
    (level, *_), size = seen
    assert size == 96
    sides = level.boxes[level.label > 0, 2:] * 8
    assert len(sides) > 0
    torch.testing.assert_close(sides, torch.full_like(sides, 0.5 * 96))


def test_the_class_gain_counts_categories_and_types(model_cfg, grids):
    head = MODELS.build(model_cfg(num_keypoints=[2, K - 2]).model.head)
    grids = [torch.cat((grid, grid[:, :, :1]), 2) for grid in grids]  # one class more
    image = people((10, 5, 60, 50))
    terms = loss(head, grids, image, people())
    gains = head.loss_module.gains
    head.loss_module.gains = lambda _, size: gains(2 + K, size)
    torch.testing.assert_close(loss(head, grids, image, people())['loss_cls'], terms['loss_cls'])
    head.loss_module.gains = lambda _, size: gains(1 + K, size)
    assert loss(head, grids, image, people())['loss_cls'] < terms['loss_cls']


@pytest.mark.parametrize(
    ('name', 'classes', 'size'),
    [('toy', 18, 256), ('overfit', 18, 384), ('people_wheels', 24, 384)],
)
def test_unscaled_gains_are_those_that_configs_computed_before(repo, name, classes, size):
    cfg = load_config(repo / f'configs/kapao/kapao_n_{name}.py').model.head.loss
    assert not cfg.scale_gains
    undone = dict(cls_gain=0.3 * 80 / classes, obj_gain=0.7 * (640 / size) ** 2, scale_gains=True)
    found, before = (MODELS.build(loss).gains(classes, size) for loss in (cfg, {**cfg, **undone}))
    assert found == pytest.approx(before, rel=1e-12, abs=0)
