# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import MODELS

from kapao_mm.errors import InputError
from kapao_mm.models.task_modules.postprocess import Candidates


def test_biases_start_at_the_expected_rates(head):
    before = [conv.bias.detach().clone() for conv in head.head_module.convs]
    head.init_weights()
    for conv, old, stride in zip(head.head_module.convs, before, head.strides, strict=True):
        added = (conv.bias.detach() - old).view(3, 57)
        expected = torch.zeros(57)
        expected[4] = math.log(8 / (640 / stride) ** 2)
        expected[5:23] = math.log(0.6 / (18 - 0.99))
        torch.testing.assert_close(added, expected.expand(3, 57))


def test_grids_have_the_layout_of_the_convolutions(head):
    feats = [torch.rand(2, width, 4, 6) for width in (32, 64, 96, 128)]
    assert [grid.shape for grid in head(feats)] == [(2, 3, 57, 4, 6)] * 4


def test_each_category_adds_a_class_and_its_keypoint_types(model_cfg):
    head = MODELS.build(model_cfg(num_keypoints=[2, 3]).model.head)
    assert (head.num_categories, head.num_keypoints) == (2, 5)
    feats = [torch.rand(2, width, 4, 6) for width in (32, 64, 96, 128)]
    assert [grid.shape[2] for grid in head(feats)] == [5 + 2 + 3 * 5] * 4


def test_the_class_of_a_pose_is_its_category(model_cfg):
    head = MODELS.build(model_cfg(num_keypoints=[2, 3]).model.head)
    head.keypoint_sizes[:] = 0.5
    seen = []
    head.loss_module.forward = lambda grids, matches, *_: seen.extend(matches)
    visible = torch.tensor([[0.0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
    person = torch.tensor([[10.0, 10, 50, 60], [20, 20, 60, 60]])
    feats = [torch.rand(1, 32 * level, 8, 8) for level in (1, 2, 3, 4)]
    labels = InstanceData(
        bboxes=person,
        keypoints=torch.full((2, 5, 2), 30.0),
        keypoints_visible=visible,
        labels=torch.tensor([1, 0]),
    )
    head.loss_by_feat(head(feats), [labels])
    level = seen[0]
    poses = level.label < 2
    assert set(level.label.tolist()) == {0, 1, 2, 3, 4, 5, 6}
    assert torch.equal(level.visible[poses], visible[1 - level.label[poses]] > 0)
    assert not level.visible[~poses].any()


def test_detected_objects_have_their_category_or_type(model_cfg, inference_settings):
    head = MODELS.build(model_cfg(num_keypoints=[2, 3]).model.head)
    candidates = Candidates(
        scores=torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]]),
        labels=torch.tensor([[1, 0, 2, 4, 6]]),
        bboxes=torch.tensor([[0.0, 0, 40, 40]]).expand(1, 5, 4),
        keypoints=torch.arange(50.0).view(1, 5, 5, 2),
    )
    (found,) = head.detect(candidates, inference_settings(max_objects=2))
    assert found.pose_objects.labels.tolist() == [1, 0]
    assert found.keypoint_objects.labels.tolist() == [0, 2]  # two of each kind, by score
    assert found.pose_objects.keypoints[0, 0].tolist() == [0, 1]


def test_a_batch_is_detected_as_its_images_are(head, inference_settings):
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(3, 150, 2, generator=generator) * 200
    candidates = Candidates(
        scores=torch.rand(3, 150, generator=generator),
        labels=torch.randint(18, (3, 150), generator=generator) % 4,
        bboxes=torch.cat((low, low + 40), 2),
        keypoints=torch.rand(3, 150, 17, 2, generator=generator),
    )
    candidates.scores[1] = 0.0  # one image has nothing
    settings = inference_settings(max_candidates=100, max_objects=50)
    batch = head.detect(candidates, settings)
    for i, found in enumerate(batch):
        (alone,) = head.detect(Candidates(*(x[i : i + 1] for x in candidates)), settings)
        for ours, expected in zip(found, alone, strict=True):
            for values, others in zip(ours, expected, strict=True):
                np.testing.assert_array_equal(values, others)
    assert [len(found.pose_objects.bboxes) > 0 for found in batch] == [True, False, True]


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


def test_a_category_without_keypoints_has_a_class_and_no_keypoint_loss(model_cfg):
    torch.manual_seed(0)
    head = MODELS.build(model_cfg(num_keypoints=[2, 0, 1]).model.head)
    assert (head.num_categories, head.num_keypoints) == (3, 3)
    feats = [torch.rand(1, 32 * level, 8, 8) for level in (1, 2, 3, 4)]
    ball = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 50, 60]]),
        keypoints=torch.zeros(1, 3, 2),
        keypoints_visible=torch.zeros(1, 3),
        labels=torch.tensor([1]),
    )
    losses = head.loss_by_feat(head(feats), [ball])
    assert losses['loss_kpt'] == 0
    assert all(losses[key] > 0 for key in ('loss_box', 'loss_obj', 'loss_cls'))
    sum(losses.values()).backward()
    for parameter in head.parameters():
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize('num_keypoints', [0, [0], [0, 0], [3, -1]])
def test_a_head_without_any_keypoints_is_refused(model_cfg, num_keypoints):
    with pytest.raises(InputError, match='num_keypoints is .*a detector'):
        MODELS.build(model_cfg(num_keypoints=num_keypoints).model.head)
