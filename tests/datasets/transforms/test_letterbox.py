# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.datasets.transforms import Letterbox


def sample(width: int, height: int) -> dict:
    return dict(
        img=np.zeros((height, width, 3), np.uint8),
        bbox=np.array([[0, 0, width, height]], np.float32),
        keypoints=np.array([[[0, 0], [width, height], [width / 2, 3]]], np.float32),
    )


def to_original(points: np.ndarray, results: dict) -> np.ndarray:
    """MMPose's formula."""
    scale, center = results['input_scale'], results['input_center']
    return points / results['input_size'] * scale + center - 0.5 * scale


@pytest.mark.parametrize('square', [False, True])
@pytest.mark.parametrize('size', [(640, 427), (333, 500), (1, 50)])
def test_mmpose_formula_maps_labels_to_the_original_image(size, square):
    original = sample(*size)
    results = Letterbox(256, square=square).transform(sample(*size))
    assert results['img'].shape[:2] == results['img_shape'] == results['input_size'][::-1]
    assert results['keypoints'].dtype == results['bbox'].dtype == np.float32
    np.testing.assert_allclose(
        to_original(results['keypoints'], results), original['keypoints'], atol=1e-3
    )
    np.testing.assert_allclose(
        to_original(results['bbox'].reshape(-1, 2), results),
        original['bbox'].reshape(-1, 2),
        atol=1e-3,
    )


def test_labels_of_test_pipelines_stay_in_original_pixels():
    results = Letterbox(128, move_labels=False).transform(sample(640, 427))
    np.testing.assert_array_equal(results['keypoints'], sample(640, 427)['keypoints'])
    np.testing.assert_array_equal(results['bbox'], sample(640, 427)['bbox'])


def test_images_without_labels_are_resized():
    results = Letterbox(128).transform(dict(img=np.zeros((30, 60, 3), np.uint8)))
    assert results['img'].shape == (64, 128, 3)
