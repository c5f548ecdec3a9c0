# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Smooths the moving points of a person: firmly at rest, hardly in motion."""

import numpy as np

SPEED_CUTOFF = 2.0  # Hz, of the low-pass filter of the speed; 1 Hz lags where arms swing
MAX_STEP = 0.5  # sizes of the person; a point that moves farther between two frames has jumped


class OneEuroFilter:
    """Smooths the points of one person with a One-Euro filter.

    This is a low-pass filter whose cutoff frequency rises with the speed of each point
    (`Casiez et al., CHI 2012 <https://doi.org/10.1145/2207676.2208639>`_): ``min_cutoff +
    beta * speed``. Speeds are in sizes of the person per second, so that the parameters suit all
    resolutions and frame rates. A point that moves at a constant speed lags by less than
    ``1 / (2 pi beta)`` sizes, 1.3 % by default, however fast it is.

    Args:
        min_cutoff: Cutoff frequency at rest, Hz. A lower one removes more jitter.
        beta: Rise of the cutoff frequency with the speed, Hz per size per second. A higher one
            reduces the lag.

    Examples:
        >>> smooth = OneEuroFilter()
        >>> for number, keypoints in enumerate(poses_of_one_person):
        ...     smoothed = smooth(keypoints, size=100, time=number / 30)
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 12.0) -> None:
        self.min_cutoff = min_cutoff
        self.beta = beta
        self.time: float | None = None  # of the last call
        self._raw = self._smoothed = self._velocity = np.empty((0, 2))

    def __call__(self, points: np.ndarray, size: float, time: float) -> np.ndarray:
        """Returns the smoothed points.

        Args:
            points: Points, (n, 2) px; n is the same in each call.
            size: Size of the person, px, such as the square root of the area of the box.
            time: Time, s, later than in the last call.

        Returns:
            Smoothed points, (n, 2) px. Points are unchanged in the first call and where they
            jumped.
        """
        if self.time is None:
            smoothed, velocity = points, np.zeros_like(points)
        else:
            dt = time - self.time
            step = points - self._raw
            jumped = np.linalg.norm(step, axis=1, keepdims=True) > MAX_STEP * size
            velocity = self._velocity + _weight(SPEED_CUTOFF, dt) * (step / dt - self._velocity)
            velocity = np.where(jumped, 0, velocity)
            speed = np.linalg.norm(velocity, axis=1, keepdims=True) / size
            weight = _weight(self.min_cutoff + self.beta * speed, dt)
            smoothed = self._smoothed + np.where(jumped, 1, weight) * (points - self._smoothed)
        self.time, self._raw, self._smoothed, self._velocity = time, points, smoothed, velocity
        return smoothed


def _weight(cutoff: float | np.ndarray, dt: float) -> float | np.ndarray:
    """Returns the weight of a new value in a low-pass filter of a cutoff frequency (Hz)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * dt))
