# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.errors import InputError
from kapao_mm.models.task_modules.candidates import Candidates


def test_biases_start_at_the_expected_rates(head):
    before = [conv.bias.detach().clone() for conv in head.head_module.convs]
    head.init_weights()
    for conv, old, stride in zip(head.head_module.convs, before, head.strides, strict=True):
        added = (conv.bias.detach() - old).view(3, 57)
        expected = torch.zeros(57)
        expected[4] = math.log(8 / (640 / stride) ** 2)
        expected[5:23] = math.log(0.6 / (18 - 0.99))
        torch.testing.assert_close(added, expected.expand(3, 57))


def test_grids_have_the_shape_of_the_spec(head):
    feats = [torch.rand(2, width, 4, 6) for width in (32, 64, 96, 128)]
    assert [grid.shape for grid in head(feats)] == [(2, 3, 4, 6, 57)] * 4


def test_each_category_adds_a_class_and_its_keypoint_types(model_cfg):
    head = MODELS.build(model_cfg(num_keypoints=[2, 3]).model.head)
    assert (head.num_categories, head.num_keypoints) == (2, 5)
    feats = [torch.rand(2, width, 4, 6) for width in (32, 64, 96, 128)]
    assert [grid.shape[-1] for grid in head(feats)] == [5 + 2 + 3 * 5] * 4


def test_the_class_of_a_pose_is_its_category(model_cfg):
    head = MODELS.build(model_cfg(num_keypoints=[2, 3]).model.head)
    head.keypoint_sizes[:] = 0.5
    seen = []
    head.loss_module.forward = lambda grids, matches, *_: seen.extend(matches)
    visible = torch.tensor([[0.0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
    person = torch.tensor([[10.0, 10, 50, 60], [20, 20, 60, 60]])
    feats = [torch.rand(1, 32 * level, 8, 8) for level in (1, 2, 3, 4)]
    head.loss_of_grids(
        head(feats), [person], [torch.full((2, 5, 2), 30.0)], [visible], [torch.tensor([1, 0])]
    )
    level = seen[0]
    poses = level.label < 2
    assert set(level.label.tolist()) == {0, 1, 2, 3, 4, 5, 6}
    assert torch.equal(level.visible[poses], visible[1 - level.label[poses]] > 0)
    assert not level.visible[~poses].any()


def test_detected_objects_have_their_category_or_type(model_cfg):
    head = MODELS.build(model_cfg(num_keypoints=[2, 3]).model.head)
    labels = torch.tensor([1, 0, 2, 4, 6])
    objects = Candidates(
        image=torch.zeros(5, dtype=torch.long),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]),
        labels=labels,
        boxes=torch.tensor([[0.0, 0, 40, 40]]).expand(5, 4),
        keypoints=torch.arange(50.0).view(5, 5, 2),
    )
    limits = dict(pose_iou_thr=0.65, keypoint_iou_thr=0.25, max_candidates=99, max_objects=2)
    (found,) = head.detect(objects, 1, dict(pose_score_thr=0.1, keypoint_score_thr=0.1, **limits))
    assert found.categories.tolist() == [1, 0]
    assert found.point_types.tolist() == [0, 2]  # two of each kind, by confidence
    assert found.keypoints[0, 0].tolist() == [0, 1]


def test_a_batch_is_detected_as_its_images_are(head):
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(400, 2, generator=generator) * 200
    objects = Candidates(
        image=torch.randint(3, (400,), generator=generator),
        scores=torch.rand(400, generator=generator),
        labels=torch.randint(18, (400,), generator=generator) % 4,
        boxes=torch.cat((low, low + 40), 1),
        keypoints=torch.rand(400, 17, 2, generator=generator),
    )
    objects = objects.take(objects.image != 1)  # one has nothing
    cfg = dict(pose_score_thr=0.1, pose_iou_thr=0.65, keypoint_score_thr=0.2, keypoint_iou_thr=0.25)
    cfg |= dict(max_candidates=300, max_objects=50)
    batch = head.detect(objects, 3, cfg)
    for i, found in enumerate(batch):
        part = objects.take(objects.image == i)
        (alone,) = head.detect(part._replace(image=part.image * 0), 1, cfg)
        for ours, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(ours, expected)
    assert [len(found.boxes) > 0 for found in batch] == [True, False, True]


def test_keypoint_sizes_may_differ_by_type(model_cfg):
    cfg = model_cfg(num_keypoints=2).model.head
    cfg.keypoint_size = [0.05, 0.1]
    head = MODELS.build(cfg)
    torch.testing.assert_close(head.keypoint_sizes, torch.tensor([0.05, 0.1]))


def test_a_wrong_number_of_keypoint_sizes_is_named(model_cfg):
    cfg = model_cfg().model.head
    cfg.keypoint_size = [0.05, 0.1]
    with pytest.raises(InputError, match='2 values.* 17 keypoint types'):
        MODELS.build(cfg)


@pytest.mark.parametrize('size', [0, -0.05, [0.05] * 16 + [0]])
def test_keypoint_objects_without_a_size_are_refused(model_cfg, size):
    cfg = model_cfg().model.head
    cfg.keypoint_size = size
    with pytest.raises(InputError, match='keypoint_size is .* above 0'):
        MODELS.build(cfg)


def test_the_state_dict_holds_convolutions_only(head):
    assert {name.rsplit('.', 1)[1] for name in head.state_dict()} == {'weight', 'bias'}
