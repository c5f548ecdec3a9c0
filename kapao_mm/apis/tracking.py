# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Follows people over the frames of a video."""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.structures import Metainfo, Prediction

from .smoothing import OneEuroFilter

IOU_WEIGHT = 0.25  # of the boxes in the similarity; the keypoints have the rest
MIN_SIMILARITY = 0.2  # of a pose and the expected pose of its track
TOLERANCE = 3  # factor of the sigmas of OKS, because people move between frames
VELOCITY_TIME = 0.15  # s, over which the velocity of a track is averaged
MIN_STEP = 0.1  # frames; shorter steps are wrong times, and one frame is taken instead


@dataclass
class Track:
    """A person who is followed.

    A pose is an array (2 + K, 2) px of the corners of the box and the keypoints.

    Attributes:
        label: Category.
        visible: Whether each keypoint type belongs to the category, (K,) bool.
        pose: The last pose, moved to where it is expected now.
        seen: Time of the last pose, s.
        filter: Filter that smooths the poses.
        number: Number of the person; 0 until the second pose.
        velocity: Velocity, (2,) px/s.
    """

    label: int
    visible: np.ndarray
    pose: np.ndarray
    seen: float
    filter: OneEuroFilter
    number: int = 0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def move(self, pose: np.ndarray, visible: np.ndarray, now: float) -> None:
        """Takes over a pose that was found, at its time (s)."""
        steps = pose - self.pose  # errors of the expectation
        known = visible & self.visible
        step = np.median(steps[2:][known], axis=0) if known.any() else steps[:2].mean(0)
        elapsed = now - self.seen
        weight = 1 - np.exp(-elapsed / VELOCITY_TIME) if self.number else 1
        self.velocity = self.velocity + weight * step / elapsed
        self.pose, self.visible, self.seen = pose, visible, now


class Tracker:
    """Gives the people of a video numbers that stay the same over its frames.

    Each person is expected to keep their pose and velocity. The poses of a frame are assigned to
    the expected ones so that the sum of their similarities is largest. The similarity is the
    weighted mean of the IoU of the boxes and the OKS of the keypoints, 0 for different categories.
    People who cross have boxes that overlap much, but hardly the same pose.

    A pose that belongs to nobody starts a track, which gets its number with its second pose.
    A person who is missed or hidden keeps the number for ``max_missing`` seconds.

    Args:
        metainfo: Metainfo of the model, whose sigmas are used.
        fps: Frames per second that are predicted, where :meth:`update` is told no time.
        smooth: Whether to smooth keypoints and boxes over time.
        max_missing: Longest time that a person may be missed, s.
        start_score: Lowest score of a pose that starts a track. Poses with lower scores only
            continue tracks.
        min_cutoff: Cutoff frequency of smoothing at rest, Hz, see :class:`OneEuroFilter`.
        beta: How fast smoothing fades with motion, see :class:`OneEuroFilter`.

    Raises:
        InputError: If the package scipy is not installed, or a number is out of range.

    Examples:
        >>> tracker = Tracker(model.metainfo, fps=25)
        >>> for result in model.predict(frames):
        ...     print(tracker.update(result.prediction).track_ids)
    """

    def __init__(
        self,
        metainfo: Metainfo,
        fps: float = 30,
        smooth: bool = False,
        max_missing: float = 1.0,
        start_score: float = 0.4,
        min_cutoff: float = 1.0,
        beta: float = 12.0,
    ) -> None:
        numbers = dict(fps=fps, max_missing=max_missing, min_cutoff=min_cutoff, beta=beta)
        for name, value in numbers.items():
            if not 0 < value < np.inf:
                raise InputError(f'{name} must be a number above 0, got {value}')
        try:
            import scipy.optimize  # noqa: F401
        except ImportError as error:
            raise InputError("scipy is not installed: pip install 'kapao-mm[video]'") from error
        self.fps = fps
        self.max_missing = max_missing
        self.start_score = start_score
        self.smooth = smooth
        self._make_filter = partial(OneEuroFilter, min_cutoff, beta)
        self._variances = (2 * TOLERANCE * np.array(metainfo.sigmas)) ** 2  # (K,)
        self.reset()

    def reset(self) -> None:
        """Forgets all people, for the next video; numbers start at 1 again."""
        self._tracks: list[Track] = []
        self._numbers = count(1)
        self._time: float | None = None

    def update(self, prediction: Prediction, time: float | None = None) -> Prediction:
        """Finds the people of the next frame.

        Call it for each predicted frame, also for those without poses.

        Args:
            prediction: Poses of the frame.
            time: Time of the frame, s. None means ``1 / fps`` after the last frame.

        Returns:
            The same poses in the same order with ``track_ids``, 0 for poses without a track. With
            smoothing, keypoints and boxes are smoothed; scores, regressed keypoints and keypoint
            objects are not changed.
        """
        now = self._advance(time)
        corners = prediction.bboxes.reshape(-1, 2, 2)
        poses = np.concatenate([corners, prediction.keypoints], axis=1)  # (P, 2 + K, 2)
        visible = prediction.keypoints_visible
        track_ids = np.zeros(len(poses), np.int64)
        starts = prediction.bbox_scores >= self.start_score
        followed = self._assign(poses, prediction)
        for track, row in followed:
            track.move(poses[row], visible[row], now)
            track.number = track.number or next(self._numbers)
            track_ids[row] = track.number
            starts[row] = False
        started = [
            (Track(prediction.labels[row], visible[row], poses[row], now, self._make_filter()), row)
            for row in np.flatnonzero(starts)
        ]
        # A track that finds no second pose is not taken for a person.
        self._tracks = [track for track in self._tracks if track.number]
        self._tracks += [track for track, _ in started]
        if self.smooth:
            sizes, raw = _sizes(poses), poses
            poses = raw.copy()
            for track, row in [*followed, *started]:
                poses[row] = track.filter(raw[row], sizes[row], now)
        return replace(
            prediction,
            bboxes=poses[:, :2].reshape(-1, 4),
            keypoints=poses[:, 2:],
            track_ids=track_ids,
        )

    def _advance(self, time: float | None) -> float:
        """Moves the expected poses to the time of the next frame, and returns that time (s)."""
        if self._time is None:
            self._time = time or 0.0
            return self._time
        last = self._time
        step = 0 if time is None else time - last
        self._time += step if step * self.fps > MIN_STEP else 1 / self.fps
        oldest = min(last, self._time - self.max_missing)  # frames may be farther apart
        self._tracks = [track for track in self._tracks if track.seen >= oldest]
        for track in self._tracks:
            track.pose = track.pose + track.velocity * (self._time - last)
        return self._time

    def _assign(self, poses: np.ndarray, prediction: Prediction) -> list[tuple[Track, int]]:
        """Returns the tracks that go on, each with the index of its pose."""
        from scipy.optimize import linear_sum_assignment

        if not self._tracks or not len(poses):
            return []
        expected = np.stack([track.pose for track in self._tracks])  # (T, 2 + K, 2)
        labels = np.array([track.label for track in self._tracks])
        same = labels[:, None] == prediction.labels  # (T, P)
        visible = np.stack([track.visible for track in self._tracks])
        visible = visible[:, None] & prediction.keypoints_visible  # (T, P, K)
        similarity = same * _similarity(expected, poses, visible, self._variances)
        pairs = zip(*linear_sum_assignment(similarity, maximize=True), strict=True)
        return [(self._tracks[i], j) for i, j in pairs if similarity[i, j] >= MIN_SIMILARITY]


def _similarity(
    expected: np.ndarray, poses: np.ndarray, visible: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """Returns the weighted mean of IoU and OKS of each expected pose and each pose, (T, P), 0 to 1.

    Args:
        expected: Corners of the box and keypoints of each track, (T, 2 + K, 2).
        poses: The same of each pose, (P, 2 + K, 2).
        visible: Keypoint types that are compared, (T, P, K) bool. Without any, this is the IoU.
        variances: Squares of the tolerated distances, as fractions of the area of a box, (K,).
    """
    (start, end), (other_start, other_end) = (
        np.moveaxis(boxes[..., :2, :], -2, 0) for boxes in (expected[:, None], poses)
    )
    shared = np.minimum(end, other_end) - np.maximum(start, other_start)
    shared = shared.clip(0).prod(-1)  # (T, P)
    areas = _sizes(poses) ** 2
    iou = shared / (_sizes(expected)[:, None] ** 2 + areas - shared)
    steps = expected[:, None, 2:] - poses[:, 2:]  # (T, P, K, 2)
    squares = np.einsum('...d,...d', steps, steps)
    terms = np.exp(-squares / (2 * areas[:, None] * variances)) * visible
    count = visible.sum(-1)
    oks = terms.sum(-1) / np.maximum(count, 1)
    return np.where(count, IOU_WEIGHT * iou + (1 - IOU_WEIGHT) * oks, iou)


def _sizes(poses: np.ndarray) -> np.ndarray:
    """Returns the square root of the area of the boxes of poses (..., 2 + K, 2), at least 1 px."""
    return np.sqrt((poses[..., 1, :] - poses[..., 0, :]).prod(-1).clip(1))
