# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

from kapao_mm.analysis.box_sides import pose_sides, read_sides, scale_sides
from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.utils.config import load_config


@pytest.fixture
def cfg(repo, tmp_path):
    """The toy config with four drawn images of 320 x 240 px."""
    make_toy_dataset(tmp_path, num_train=4, num_val=1, image_size=(320, 240))
    path = repo / 'configs/kapao/kapao_n_toy.py'
    return load_config(path, dict(data_root=str(tmp_path), input_size=160))


@pytest.mark.slow
def test_sides_are_those_in_the_network_input(cfg, tmp_path):
    sides, images = pose_sides(cfg.train_dataloader.dataset, 160)
    content = json.loads((tmp_path / 'annotations/person_keypoints_train.json').read_text())
    expected = np.array([annotation['bbox'][2:] for annotation in content['annotations']]) / 2
    np.testing.assert_allclose(np.sort(sides, 0), np.sort(expected, 0), atol=0.5)  # some clipped
    assert images == 4


@pytest.mark.slow
def test_every_dataset_in_wrappers_is_read_with_its_transforms(cfg):
    dataset = cfg.train_dataloader.dataset
    alone, _ = read_sides(cfg)
    unscaled = {**dataset, 'pipeline': [dict(type='Other')]}
    cfg.train_dataloader.dataset = dict(
        type='CombinedDataset',
        datasets=[dict(type='RepeatDataset', times=3, dataset=dataset), unscaled],
    )
    both, images = read_sides(cfg)
    assert images == 8
    for name in ('pose objects', 'pose objects in training'):
        expected = np.concatenate((alone[name], alone['pose objects']))
        np.testing.assert_array_equal(both[name], expected)


@pytest.mark.parametrize('transform', ['RandomScaleTranslate', 'MosaicScaleTranslate'])
def test_training_scales_boxes_and_drops_some(transform):
    affine = dict(type=transform, scale_range=(0.1, 1.9))

    def scale(*side):
        return scale_sides(np.array([side], float), [dict(type='Other'), affine], 128)

    widths = np.arange(3, 20)  # boxes of 2 px are removed
    np.testing.assert_allclose(scale(10, 30), np.stack((widths, 3 * widths), 1))
    np.testing.assert_allclose(scale(100, 2000)[[0, -1]], [(10, 128), (128, 128)])
    np.testing.assert_allclose(scale(4, 100), [(6.8, 128), (7.2, 128), (7.6, 128)])  # < 20 : 1
    assert scale_sides(np.ones((2, 2)), [dict(type='Other')], 128).tolist() == [[1, 1]] * 2
