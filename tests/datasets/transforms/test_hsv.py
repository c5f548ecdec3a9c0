# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest

from kapao_mm.datasets.transforms import HSVGain


@pytest.fixture
def factors(monkeypatch):
    """Fixes the three random numbers in [-1, 1]."""

    def fix(values):
        monkeypatch.setattr(np.random, 'uniform', lambda low, high, size: np.array(values))

    return fix


def hsv(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(float)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 130, (16, 16, 3), np.uint8)


def test_gains_multiply(factors):
    factors([0, 0, -0.5])
    image = picture()
    changed = HSVGain((0.015, 0.7, 0.4)).transform(dict(img=image.copy()))['img']
    np.testing.assert_allclose(hsv(changed)[..., 2], hsv(image)[..., 2] * 0.8, atol=1)


def test_saturation_and_value_are_clipped(factors):
    factors([0, 1, 1])
    image = picture()
    changed = HSVGain((0, 5, 5)).transform(dict(img=image))['img']
    assert hsv(changed)[..., 2].max() == 255
    expected = (hsv(image)[..., 1] * 6).clip(0, 255)
    np.testing.assert_allclose(hsv(changed)[..., 1], expected, atol=2)


def test_hue_wraps_around(factors):
    factors([1, 0, 0])
    pink = cv2.cvtColor(np.full((4, 4, 3), (150, 255, 255), np.uint8), cv2.COLOR_HSV2BGR)
    changed = HSVGain((0.8, 0, 0)).transform(dict(img=pink))['img']
    assert abs(hsv(changed)[0, 0, 0] - 90) <= 1  # 150 * 1.8 = 270, more than a byte holds


def test_gains_of_zero_change_colors_only_by_rounding():
    image = picture()
    changed = HSVGain((0, 0, 0)).transform(dict(img=image.copy()))['img']
    assert np.abs(changed.astype(int) - image).max() <= 3


def test_factors_fill_the_range_of_the_gain():
    np.random.seed(0)
    gray = np.full((1, 1, 3), 100, np.uint8)
    values = [HSVGain((0, 0, 0.4)).transform(dict(img=gray))['img'][0, 0, 0] for _ in range(300)]
    assert 59 <= min(values) <= 63 and 137 <= max(values) <= 140


def test_floating_point_colors_are_rounded(factors):
    factors([0, 0, -0.5])
    image = picture()
    gain = HSVGain((0.015, 0.7, 0.4))
    expected = gain.transform(dict(img=image))['img']
    found = gain.transform(dict(img=image + np.float32(0.2)))['img']
    np.testing.assert_array_equal(found, expected)
