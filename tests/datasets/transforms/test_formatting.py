# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch
from mmpose.registry import TRANSFORMS

from kapao_mm.datasets.transforms import Letterbox, PackKAPAOInputs
from kapao_mm.errors import InputError


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


def test_metainfo_contains_what_model_and_metric_need():
    meta = PackKAPAOInputs().transform(sample(2))['data_samples'].metainfo
    needed = 'id img_id raw_ann_info crowd_index input_size input_center input_scale ori_shape'
    assert set(needed.split()) | {'img_shape', 'flip_indices'} <= meta.keys()
    assert 'category_id' not in meta  # CocoMetric would write the whole array as one category


def test_images_without_labels_are_packed():
    bare = {key: value for key, value in sample(0).items() if 'keypoints' not in key}
    del bare['bbox'], bare['category_id']
    packed = PackKAPAOInputs().transform(bare)
    assert len(packed['data_samples'].gt_instance_labels.keys()) == 0


@pytest.mark.parametrize('view', [np.s_[:], np.s_[3:, 5:], np.s_[::2, ::2]])
def test_input_is_the_image_with_channels_first(view):
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)[view]
    inputs = PackKAPAOInputs().transform(sample(1) | dict(img=image))['inputs']
    assert inputs.is_contiguous()
    np.testing.assert_array_equal(inputs.numpy(), image.transpose(2, 0, 1))
    assert not np.shares_memory(inputs.numpy(), image)


IMAGE = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (IMAGE.astype(np.float32) + 0.3, IMAGE),
        (IMAGE * 1.0 - 40, IMAGE - np.minimum(IMAGE, 40)),
        (IMAGE.astype(np.uint16) * 257, IMAGE),
        (IMAGE[..., 0], np.dstack([IMAGE[..., 0]] * 3)),
        (IMAGE[..., :1], np.dstack([IMAGE[..., 0]] * 3)),
        (np.dstack([IMAGE, IMAGE[..., 0]]), IMAGE),
    ],
)
def test_other_image_formats_keep_their_colors(image, expected):
    inputs = PackKAPAOInputs().transform(sample(1) | dict(img=image))['inputs']
    assert inputs.dtype == torch.uint8
    np.testing.assert_array_equal(inputs.numpy(), expected.transpose(2, 0, 1))


def test_photometric_distortion_keeps_the_image_recognizable():
    distort = TRANSFORMS.build(dict(type='mmdet.PhotoMetricDistortion'))
    image = np.tile(np.arange(40, 200, 5, dtype=np.uint8)[:, None, None], (1, 30, 3))
    for seed in range(10):
        np.random.seed(seed)
        results = distort(sample(1) | dict(img=image.copy()))
        inputs = PackKAPAOInputs().transform(results)['inputs'].numpy()
        rows = inputs.mean((0, 2))
        assert np.corrcoef(rows, image[:, 0, 0])[0, 1] > 0.95


@pytest.mark.parametrize('more', [dict(img=IMAGE / 255), dict(img_norm_cfg=dict(mean=[0]))])
def test_normalized_images_are_an_error(more):
    with pytest.raises(InputError, match='model.data_preprocessor'):
        PackKAPAOInputs().transform(sample(1) | more)


def test_labels_of_test_pipelines_can_be_packed_in_pixels_of_the_input():
    image = np.zeros((48, 64, 3), np.uint8)
    labels = dict(bbox=np.array([[8, 6, 60, 40]]), keypoints=np.array([[[40, 30]]]))
    results = Letterbox(128, move_labels=False).transform(sample(1) | labels | dict(img=image))
    for pack_transformed, scale in ((False, 1), (True, 2)):
        pack = PackKAPAOInputs(pack_transformed=pack_transformed)
        found = pack.transform(dict(results))['data_samples'].gt_instances
        offset = np.array([0, (128 - 96) / 2]) if pack_transformed else 0
        np.testing.assert_allclose(found.keypoints, scale * labels['keypoints'] + offset)
        corners = found.bboxes.reshape(-1, 2, 2)
        np.testing.assert_allclose(corners, scale * labels['bbox'].reshape(-1, 2, 2) + offset)
