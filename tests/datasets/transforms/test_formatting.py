# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from kapao_mm.datasets.transforms import PackKAPAOInputs


def sample(people: int) -> dict:
    return dict(
        img=np.zeros((64, 128, 3), np.uint8),
        img_id=7,
        id=[1, 2],
        category_id=np.ones(people, int),
        raw_ann_info=[{}],
        crowd_index=[0.5],
        input_size=(128, 64),
        input_center=np.zeros(2),
        input_scale=np.ones(2),
        ori_shape=(30, 60),
        img_shape=(64, 128),
        flip_indices=[0, 2, 1],
        bbox=np.ones((people, 4), np.float32),
        bbox_score=np.ones(people, np.float32),
        keypoints=np.ones((people, 3, 2), np.float32),
        keypoints_visible=np.ones((people, 3), np.float32),
    )


def test_labels_are_tensors_for_any_number_of_people():
    for people in (0, 1, 3):
        packed = PackKAPAOInputs().transform(sample(people))
        labels = packed['data_samples'].gt_instance_labels
        assert packed['inputs'].shape == (3, 64, 128)
        assert packed['inputs'].dtype == torch.uint8
        shapes = dict(bboxes=(people, 4), keypoints=(people, 3, 2), keypoints_visible=(people, 3))
        shapes['labels'] = (people,)
        assert {key: tuple(value.shape) for key, value in labels.items()} == shapes
        assert labels.pop('labels').dtype == torch.int64
        assert all(value.dtype == torch.float32 for value in labels.values())


def test_model_and_metric_find_their_metainfo():
    meta = PackKAPAOInputs().transform(sample(2))['data_samples'].metainfo
    needed = 'id img_id raw_ann_info crowd_index input_size input_center input_scale ori_shape'
    assert set(needed.split()) | {'img_shape', 'flip_indices'} <= meta.keys()
    assert 'category_id' not in meta  # CocoMetric would write the whole array as one category


def test_images_without_labels_pass():
    bare = {key: value for key, value in sample(0).items() if 'keypoints' not in key}
    del bare['bbox'], bare['category_id']
    packed = PackKAPAOInputs().transform(bare)
    assert len(packed['data_samples'].gt_instance_labels.keys()) == 0


@pytest.mark.parametrize('view', [np.s_[:], np.s_[3:, 5:], np.s_[::2, ::2]])
def test_the_input_is_the_image_with_its_channels_first(view):
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)[view]
    inputs = PackKAPAOInputs().transform(sample(1) | dict(img=image))['inputs']
    assert inputs.is_contiguous()
    np.testing.assert_array_equal(inputs.numpy(), image.transpose(2, 0, 1))
    assert not np.shares_memory(inputs.numpy(), image)
