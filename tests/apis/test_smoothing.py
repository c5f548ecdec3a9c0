# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.apis.smoothing import OneEuroFilter

FPS, SIZE = 30, 100


def smoothed(points: np.ndarray, size: float = SIZE, fps: float = FPS) -> np.ndarray:
    smooth = OneEuroFilter()
    return np.stack([smooth(p, size, i / fps) for i, p in enumerate(points)])


def jittered(points: np.ndarray, spread: float = 0.015 * SIZE) -> np.ndarray:
    return points + np.random.default_rng(0).normal(0, spread, points.shape)


def test_at_rest_more_than_half_of_the_jitter_vanishes():
    noisy = jittered(np.zeros((200, 17, 2)))
    steps, before = (np.diff(p, axis=0)[20:].std() for p in (smoothed(noisy), noisy))
    assert steps < 0.45 * before


@pytest.mark.parametrize('speed', [0.5, 2, 8])  # sizes per second
def test_a_moving_point_lags_by_less_than_1_4_percent_of_the_size(speed):
    path = np.zeros((90, 1, 2))
    path[..., 0] = speed * SIZE / FPS * np.arange(90)[:, None]
    lag = (path - smoothed(path))[30:, 0, 0]
    assert lag.min() >= 0 and lag.max() < 0.014 * SIZE


def test_a_swinging_arm_is_hardly_less_exact():
    angle = 2 * np.pi * np.arange(120)[:, None, None] / FPS  # one swing in a second
    path = np.concatenate([0.5 * SIZE * np.sin(angle), 0 * angle], axis=-1)
    noisy = jittered(path)
    errors = [np.sqrt(((p - path)[10:] ** 2).sum(-1).mean()) for p in (smoothed(noisy), noisy)]
    assert errors[0] < 1.25 * errors[1]


def test_a_point_that_jumps_is_taken_over_at_once_and_the_others_are_smoothed():
    path = jittered(np.zeros((31, 2, 2)))
    path[30, 0] += 0.7 * SIZE
    last = smoothed(path)[30]
    assert last[0] == pytest.approx(path[30, 0])
    assert abs(last[1] - path[30, 1]).max() > 0.1


def test_the_result_does_not_depend_on_the_resolution():
    path = jittered(np.cumsum(np.ones((60, 3, 2)), axis=0))
    assert smoothed(20 * path, 20 * SIZE) == pytest.approx(20 * smoothed(path))


def test_the_frame_rate_changes_the_result_little():
    times = np.arange(0, 2, 1 / 60)[:, None, None]
    path = np.concatenate([50 * np.sin(3 * times), 50 * np.cos(2 * times)], axis=-1)
    fast, slow = smoothed(path, fps=60), smoothed(path[::4], fps=15)
    assert abs(fast[::4] - slow)[5:].max() < 0.01 * SIZE


def test_points_of_other_categories_stay_at_zero():
    path = jittered(np.ones((10, 3, 2)))
    path[:, 1] = 0
    assert not smoothed(path)[:, 1].any()


def test_each_value_is_that_of_the_paper_with_speeds_in_sizes_per_second():
    def weight(cutoff: float) -> float:
        return 1 / (1 + FPS / (2 * np.pi * cutoff))

    values, smooth = [0.0, 3.0, 4.0], OneEuroFilter(min_cutoff=1.5, beta=3)
    mean, speed = values[0], 0.0
    smooth(np.zeros((1, 2)), SIZE, 0)
    for number in (1, 2):
        raw = (values[number] - values[number - 1]) * FPS
        speed += weight(2) * (raw - speed)
        mean += weight(1.5 + 3 * speed / SIZE) * (values[number] - mean)
        ((x, y),) = smooth(np.array([[0, values[number]]]), SIZE, number / FPS)
        assert (x, y) == (0, pytest.approx(mean))
