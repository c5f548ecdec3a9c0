# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from dataclasses import replace

import numpy as np
import pytest

from kapao_mm.analysis.tracking import score_tracks, time_tracking, track_video
from kapao_mm.analysis.tracking_data import Detector, pan_over_photo, read_truth
from kapao_mm.structures import Metainfo

pytest.importorskip('trackers')

SIZE = (640, 480)
SIGMAS = [0.05] * 3
METAINFO = Metainfo(
    [dict(name='person', keypoint_ids=[0, 1, 2])], ['a', 'b', 'c'], [], SIGMAS, [], [], []
)


def person(x: float, track_id: int) -> dict:
    keypoints = [x + 20, 110, 2, x + 10, 150, 2, 0, 0, 0]
    return dict(bbox=[x, 100, 40, 100], keypoints=keypoints, track_id=track_id)


def truth(*people: tuple[float, int]):
    return read_truth([person(*p) for p in people], 3)


def test_labels_are_read_as_poses_with_numbers():
    poses, ids = truth((10, 7), (200, 8))
    assert ids.tolist() == [7, 8]
    assert poses.bboxes.tolist() == [[10, 100, 50, 200], [200, 100, 240, 200]]
    assert poses.keypoints_visible.tolist() == [[True, True, False]] * 2
    assert len(truth()[0]) == 0


def test_perfect_tracks_score_1_and_a_swap_is_counted():
    truths = [truth((10, 1), (200, 2))] * 10
    right = [replace(t.prediction, track_ids=np.array([5, 3])) for t in truths]
    figures = score_tracks(truths, right)
    assert figures == dict(people=2, tracks=2, IDF1=1, best_IDF1=1, MOTA=1, id_switches=0)
    swapped = right[:5] + [replace(p, track_ids=np.array([3, 5])) for p in right[5:]]
    figures = score_tracks(truths, swapped)
    assert figures['IDF1'] == 0.5 and figures['id_switches'] == 2 and figures['best_IDF1'] == 1


def test_poses_without_a_track_count_as_missed():
    truths = [truth((10, 1), (200, 2))] * 10
    half = [replace(t.prediction, track_ids=np.array([5, 0])) for t in truths]
    figures = score_tracks(truths, half)
    assert figures['tracks'] == 1 and figures['MOTA'] == 0.5 and figures['best_IDF1'] == 1


def test_the_imitated_network_misses_people_and_finds_wrong_ones_as_often_as_told():
    detect = Detector(np.random.default_rng(0), SIGMAS, miss=0.2, wrong=0)
    people = truth(*((60 * i, i + 1) for i in range(10)))
    counts = [len(detect(people, SIZE)) for _ in range(300)]
    assert np.mean(counts) == pytest.approx(8, abs=0.3)
    detect = Detector(np.random.default_rng(0), SIGMAS, miss=0, wrong=0.5)
    assert np.mean([len(detect(people, SIZE)) for _ in range(300)]) == pytest.approx(
        10.4, abs=0.2
    )  # some are out of view
    assert len(detect(truth(), SIZE)) == 0


def test_without_errors_the_imitated_network_returns_the_labels():
    detect = Detector(np.random.default_rng(0), SIGMAS, miss=0, wrong=0, noise=0)
    people = truth((10, 1), (200, 2))
    poses = detect(people, SIZE)
    assert np.array_equal(poses.bboxes, people.prediction.bboxes)
    assert np.array_equal(poses.keypoints, people.prediction.keypoints)


def test_a_camera_over_a_photo_moves_labels_with_the_pixels():
    photo = np.zeros((480, 640, 3), np.uint8)
    photo[238:243, 318:323] = 255
    label = dict(bbox=[270, 190, 100, 100], keypoints=[320, 240, 2] * 3)
    shifts = []
    for frame, people in pan_over_photo(photo, [label], num_frames=8, period=8):
        (found,) = people
        *position, visible = found['keypoints'][:3]
        if visible:
            y, x = np.argwhere(frame.max(-1) > 200).mean(0)
            assert position == pytest.approx([x, y], abs=1.5)
            shifts.append(x)
    assert len(shifts) > 4 and np.ptp(shifts) > 100


def test_people_out_of_view_are_not_annotated_and_those_who_come_back_late_are_new():
    photo = np.zeros((120, 160, 3), np.uint8)
    label = dict(bbox=[20, 40, 10, 20], keypoints=[25, 50, 2] * 3)

    def numbers(memory: int) -> list[int]:
        frames = pan_over_photo(photo, [label], 100, period=50, memory=memory)
        return [found['track_id'] for _, people in frames for found in people]

    assert 0 < len(numbers(30)) < 100
    assert set(numbers(100)) == {1} and set(numbers(5)) > {1, 2}


def test_people_who_walk_apart_are_tracked_perfectly():
    frames = [
        (np.zeros((*SIZE[::-1], 3), np.uint8), [person(10 + 4 * i, 1), person(400 + 3 * i, 2)])
        for i in range(20)
    ]
    figures = score_tracks(*track_video(frames, lambda image, people: people.prediction, METAINFO))
    assert figures['tracks'] == 2 and figures['id_switches'] == 0
    assert figures['IDF1'] == pytest.approx(2 * 38 / (38 + 40))  # no numbers in the first frame


def test_each_frame_is_timed():
    assert len(time_tracking(METAINFO, people=3, smooth=True, num_frames=5)) == 5
