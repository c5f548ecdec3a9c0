# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kapao_mm.apis.smoothing import OneEuroFilter
from kapao_mm.apis.tracking import Tracker
from kapao_mm.errors import InputError
from kapao_mm.structures import KeypointObjects, Metainfo, Prediction

NAMES = ['head', 'hand', 'foot', 'paw']
PERSON, DOG, BALL = range(3)
METAINFO = Metainfo(
    categories=[
        dict(name='person', keypoint_ids=[0, 1, 2]),
        dict(name='dog', keypoint_ids=[3]),
        dict(name='ball', keypoint_ids=[]),
    ],
    keypoint_names=NAMES,
    flip_pairs=[],
    sigmas=[0.05] * 4,
    skeleton_links=[],
    keypoint_colors=[],
    link_colors=[],
)
TYPES = np.array([[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
POSE = np.array([[20, 10], [35, 50], [20, 95], [20, 50]], float)


def frame(
    *xs: float,
    y: float = 0,
    labels: list[int] | None = None,
    scores: float | list[float] = 0.9,
    poses: np.ndarray = POSE,
) -> Prediction:
    """People of 40 x 100 px whose boxes start at some x."""
    count = len(xs)
    labels = np.array(labels or [PERSON] * count, np.int64)
    corners = np.column_stack([xs, np.full(count, y)]).reshape(count, 1, 2)
    keypoints = (np.broadcast_to(poses, (count, 4, 2)) + corners) * TYPES[labels][..., None]
    return Prediction(
        bboxes=np.hstack([corners[:, 0], corners[:, 0] + (40, 100)]),
        bbox_scores=np.broadcast_to(scores, count).astype(float),
        labels=labels,
        keypoints=keypoints,
        keypoint_scores=np.full((count, 4), 0.5) * TYPES[labels],
        keypoints_visible=TYPES[labels],
        pose_keypoints=keypoints,
        keypoint_objects=KeypointObjects(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64)),
    )


def ids(tracker: Tracker, *frames: Prediction, times: list[float] | None = None) -> list[list[int]]:
    times = times or [None] * len(frames)
    pairs = zip(frames, times, strict=True)
    return [tracker.update(poses, time).track_ids.tolist() for poses, time in pairs]


def test_people_get_numbers_from_1_in_their_second_frame_and_keep_them_in_any_order():
    frames = frame(0, 200), frame(205, 4), frame(8, 210), frame(215, 11)
    assert ids(Tracker(METAINFO), *frames) == [[0, 0], [2, 1], [1, 2], [2, 1]]


def test_the_poses_stay_as_they_are_but_for_the_numbers():
    poses = frame(0, 200, 0, labels=[PERSON, DOG, BALL])
    tracked = Tracker(METAINFO).update(poses)
    assert tracked.track_ids.dtype == np.int64
    for name, value in vars(poses).items():
        if name not in ('track_ids', 'keypoint_objects'):
            assert np.array_equal(getattr(tracked, name), value), name
    assert tracked.keypoint_objects is poses.keypoint_objects


def test_a_person_who_is_missed_for_less_than_a_second_keeps_the_number():
    walk = [frame(3 * i) for i in range(60)]
    seen = walk[:20] + [frame()] * 25 + walk[45:50]
    assert ids(Tracker(METAINFO), *seen)[-1] == [1]
    gone = walk[:10] + [frame()] * 35 + walk[45:50]
    assert ids(Tracker(METAINFO), *gone)[-1] == [2]


def test_people_who_cross_keep_their_numbers_by_their_poses():
    other = POSE.copy()
    other[:, 1] = 100 - POSE[:, 1]  # someone who stands on their head
    frames = []
    for i in range(41):
        x = [5 * i, 200 - 5 * i]
        hidden = 18 <= i <= 22  # the second one, behind the first one
        frames.append(frame(*x, poses=np.stack([POSE, other]))[: 1 if hidden else 2])
    assert ids(Tracker(METAINFO), *frames)[-1] == [1, 2]


def test_people_who_meet_at_one_place_and_part_are_told_by_their_poses():
    other = POSE.copy()
    other[:, 1] = 100 - POSE[:, 1]
    path = [*range(0, 100, 5), 100, 100, 100, *range(100, -1, -5)]
    frames = [frame(x, 200 - x, poses=np.stack([POSE, other])) for x in path]
    frames = [poses[[1, 0]] if i > 20 else poses for i, poses in enumerate(frames)]
    assert ids(Tracker(METAINFO), *frames)[-1] == [2, 1]


def test_a_track_never_changes_its_category():
    frames = [frame(0), frame(1), frame(2, labels=[DOG]), frame(3, labels=[DOG]), frame(4)]
    assert ids(Tracker(METAINFO), *frames) == [[0], [1], [0], [2], [1]]


def test_categories_without_keypoints_are_tracked_by_their_boxes():
    balls = [frame(9 * i, 400 - 9 * i, labels=[BALL] * 2) for i in range(20)]
    assert ids(Tracker(METAINFO), *balls)[-1] == [1, 2]
    balls[8:14] = [frame()] * 6
    assert ids(Tracker(METAINFO), *balls)[-1] == [1, 2]


def test_a_person_who_jitters_and_is_missed_is_expected_at_the_same_place():
    frames = [frame(5 * (-1) ** i) for i in range(20)] + [frame()] * 8 + [frame(0)]
    assert ids(Tracker(METAINFO), *frames)[-1] == [1]


def test_low_scores_continue_a_track_but_start_none():
    frames = frame(0), frame(2, 300, scores=0.3), frame(4, 300, scores=0.3)
    assert ids(Tracker(METAINFO), *frames) == [[0], [1, 0], [1, 0]]
    assert ids(Tracker(METAINFO, start_score=0.2), *frames)[-1] == [1, 2]


def test_a_pose_of_a_single_frame_uses_no_number():
    frames = frame(0, 300), frame(0), frame(0, 500), frame(0, 500)
    assert ids(Tracker(METAINFO), *frames)[-1] == [1, 2]


def test_dropped_frames_are_bridged_by_their_times():
    times = [0, 0.03, 0.06, 0.5, 0.53]
    frames = [frame(800 * time) for time in times]
    assert ids(Tracker(METAINFO), *frames, times=times)[-1] == [1]
    assert ids(Tracker(METAINFO), *frames)[-1] != [1]


def test_frames_may_be_farther_apart_than_max_missing():
    frames = [frame(i) for i in range(4)]
    assert ids(Tracker(METAINFO, fps=0.2), *frames)[-1] == [1]


def test_times_that_stand_still_or_fall_do_no_harm():
    frames = [frame(i) for i in range(6)]
    assert ids(Tracker(METAINFO), *frames, times=[1, 1, 0.5, 0.5, 1.1, None])[1:] == [[1]] * 5


def test_the_resolution_does_not_matter():
    def scaled(poses: Prediction) -> Prediction:
        return replace(poses, bboxes=20 * poses.bboxes, keypoints=20 * poses.keypoints)

    rng = np.random.default_rng(0)
    frames = [frame(*(200 * rng.random(3) + 5 * i)) for i in range(20)]
    assert ids(Tracker(METAINFO), *map(scaled, frames)) == ids(Tracker(METAINFO), *frames)


def test_reset_starts_at_1_again_and_forgets_everybody():
    tracker = Tracker(METAINFO)
    ids(tracker, frame(0), frame(1), times=[50, 50.03])
    tracker.reset()
    assert ids(tracker, frame(2, 300), frame(3, 300), times=[0, 0.03]) == [[0, 0], [1, 2]]


def test_frames_without_poses_are_fine():
    assert ids(Tracker(METAINFO, smooth=True), frame(), frame(0), frame(), frame(0))[-1] == [0]


def test_smoothing_calms_keypoints_and_boxes_alike_and_leaves_the_rest():
    rng = np.random.default_rng(0)
    tracker = Tracker(METAINFO, smooth=True)
    before, after = [], []
    for _ in range(60):
        poses = frame(rng.normal(0, 1), y=rng.normal(0, 1))
        tracked = tracker.update(poses)
        before.append(np.concatenate([poses.bboxes[0], poses.keypoints[0, :3].ravel()]))
        after.append(np.concatenate([tracked.bboxes[0], tracked.keypoints[0, :3].ravel()]))
        assert np.array_equal(tracked.keypoint_scores, poses.keypoint_scores)
        assert np.array_equal(tracked.pose_keypoints, poses.pose_keypoints)
        assert not tracked.keypoints[0, 3].any()  # of another category
    before, after = (np.diff(values, axis=0)[10:].std(0) for values in (before, after))
    assert (after < before / 2).all()


def test_smoothing_is_that_of_the_filter():
    rng = np.random.default_rng(0)
    tracker, smooth = Tracker(METAINFO, smooth=True), OneEuroFilter()
    for number in range(20):
        poses = frame(rng.normal(2 * number, 2))
        points = np.concatenate([poses.bboxes.reshape(2, 2), poses.keypoints[0]])
        expected = smooth(points, np.sqrt(4000), number / 30)
        tracked = tracker.update(poses)
        assert tracked.bboxes[0] == pytest.approx(expected[:2].ravel())
        assert tracked.keypoints[0] == pytest.approx(expected[2:])


def test_smoothing_starts_anew_with_each_person():
    tracker = Tracker(METAINFO, smooth=True)
    ids(tracker, *[frame(0)] * 30)
    fresh = tracker.update(frame(0, 33))
    assert fresh.keypoints[1] == pytest.approx(frame(33).keypoints[0])


def test_smoothing_does_not_change_the_numbers():
    rng = np.random.default_rng(0)
    frames = [frame(*(100 * np.arange(3) + rng.normal(5 * i, 4, 3))) for i in range(40)]
    assert ids(Tracker(METAINFO, smooth=True), *frames) == ids(Tracker(METAINFO), *frames)


@pytest.mark.parametrize('wrong', [dict(fps=0), dict(fps=np.nan), dict(max_missing=-1)])
def test_wrong_numbers_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f'{name} must be a number above 0, got'):
        Tracker(METAINFO, **wrong)


def test_a_missing_scipy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy.optimize', None)
    with pytest.raises(InputError, match=r"pip install 'kapao-mm\[video\]'"):
        Tracker(METAINFO)


@pytest.mark.slow
def test_the_module_imports_neither_torch_nor_mm(repo):
    code = (
        'import sys, kapao_mm.apis.tracking\n'
        'print({"torch", "mmengine", "mmcv", "scipy"} & set(sys.modules))'
    )
    command = [sys.executable, '-c', code]
    run = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'
