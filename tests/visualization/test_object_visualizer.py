# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm.utils.config import load_config
from kapao_mm.visualization.object_visualizer import objects_of


@pytest.fixture
def head(repo):
    cfg = load_config(repo / 'configs/kapao/kapao_n_toy.py').model.head
    cfg.update(num_keypoints=[2, 1], keypoint_size=[0.1, 0.2, 0.3])
    return MODELS.build(cfg)


def sample(**more):
    labels = dict(
        bboxes=torch.tensor([[10.0, 20, 30, 60], [0, 0, 50, 50]]),
        keypoints=torch.tensor([[[10.0, 20], [30, 60], [0, 0]], [[0, 0], [0, 0], [90, 10]]]),
        keypoints_visible=torch.tensor([[1.0, 1, 0], [0, 0, 1]]),
        labels=torch.tensor([0, 1]),
    )
    return PoseDataSample(gt_instance_labels=InstanceData(**labels), metainfo=more)


def test_objects_are_those_that_the_head_is_trained_on(head):
    found = objects_of(sample(), (50, 100), head)
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.bboxes, [[10, 20, 30, 60], [0, 0, 50, 50]])
    # (30, 60) is below the network input
    assert found.keypoints_visible.tolist() == [[True, False, False], [False, False, True]]
    squares = found.keypoint_objects
    assert squares.labels.tolist() == [0, 2]
    np.testing.assert_allclose(squares.bboxes, [[5, 15, 15, 25], [75, -5, 105, 25]], rtol=1e-6)


def test_crowd_regions_are_left_out(head):
    found = objects_of(sample(raw_ann_info=[dict(iscrowd=1), {}]), (100, 100), head)
    assert found.labels.tolist() == [1]
    assert found.keypoint_objects.labels.tolist() == [2]


def test_image_without_annotations_has_no_objects(head):
    empty = PoseDataSample(gt_instance_labels=InstanceData(), metainfo=dict(raw_ann_info=None))
    found = objects_of(empty, (100, 100), head)
    assert len(found) == len(found.keypoint_objects.bboxes) == 0


def test_objects_of_enlarged_images_are_enlarged(head):
    found = objects_of(sample(), (100, 300), head, zoom=3)
    np.testing.assert_allclose(found.bboxes[0], [30, 60, 90, 180])
    np.testing.assert_allclose(found.keypoints[0, 1], [90, 180])
    np.testing.assert_allclose(found.keypoint_objects.bboxes[0], [-15, 15, 75, 105])
