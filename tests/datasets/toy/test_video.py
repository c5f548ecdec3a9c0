# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.datasets.toy.figure import ANKLE
from kapao_mm.datasets.toy.video import (
    VIDEO_LEVELS,
    Actor,
    cast_actors,
    draw_video,
    pose_actor,
)
from kapao_mm.errors import InputError

SIZE = (160, 120)


def actor(role: str, speed: float = 60) -> Actor:
    return Actor(seed=3, role=role, height=100, ground=110, x=80, speed=speed, reach=40, turn=60)


@pytest.mark.slow
def test_a_seed_draws_the_same_video_and_another_seed_another_one():
    def draw(seed: int) -> list:
        return [(f.tobytes(), people) for f, people in draw_video(seed, 'easy', 3, SIZE)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.slow
def test_people_are_annotated_with_their_numbers_and_come_and_go():
    frames = list(draw_video(1, 'easy', 40, SIZE, fps=10))
    seen = []
    for number, (image, people) in enumerate(frames, start=1):
        assert image.shape == (120, 160, 3) and image.dtype == np.uint8
        assert {person['image_id'] for person in people} <= {number}
        seen.append({person['track_id'] for person in people})
    assert set.union(*seen) == {1, 2, 3}
    assert seen[0] != {1, 2, 3} and seen[-1] != {1, 2, 3}
    ids = [person['id'] for _, people in frames for person in people]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_people_who_are_hidden_are_not_annotated_and_keep_their_number_afterwards():
    seen = [
        {person['track_id'] for person in people}
        for _, people in draw_video(1, 'crowd', 40, SIZE, fps=10)
    ]
    changes = {
        number: np.diff([int(number in people) for people in seen]) for number in set.union(*seen)
    }
    gone = {number: steps[np.argmin(steps) :] for number, steps in changes.items()}
    assert any(steps[0] == -1 and 1 in steps for steps in gone.values())


def test_a_walk_moves_the_legs_in_turn_and_keeps_a_foot_on_the_ground():
    figures = [pose_actor(actor('cross'), t) for t in np.linspace(0, 1.42, 50)]  # a stride
    left, right = (np.array([f.keypoints[ANKLE + i, 0] for f in figures]) for i in (0, 1))
    assert (left - right).max() > 10 and (left - right).min() < -10
    assert [f.box()[3] for f in figures] == pytest.approx([110] * 50)


def test_walkers_face_where_they_go_and_those_who_pace_turn_round():
    def facing(role: str, time: float, speed: float = 60) -> float:
        keypoints = pose_actor(actor(role, speed), time).keypoints
        return keypoints[0, 0] - keypoints[3:5, 0].mean()  # from the ears to the nose

    assert facing('cross', 0) > 0 > facing('cross', 0, speed=-60)
    assert facing('pace', 0) > 0 > facing('pace', np.pi * 40 / 60)


@pytest.mark.slow
def test_those_who_sit_stay_and_those_who_pace_stay_in_the_picture():
    assert np.ptp([pose_actor(actor('sit'), t).box()[3] for t in range(9)]) < 1e-9
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for person in cast_actors(rng, VIDEO_LEVELS['crowd'], SIZE, 4):
            if person.role == 'pace':
                xs = [pose_actor(person, t).keypoints[0, 0] for t in np.linspace(0, 9, 20)]
                assert min(xs) > 0 and max(xs) < SIZE[0]


def test_a_look_does_not_change_over_time():
    colors = [[p.color for p in pose_actor(actor('cross'), t).parts] for t in (0, 0.3)]
    assert sorted(colors[0]) == sorted(colors[1])


def test_an_unknown_level_is_refused():
    with pytest.raises(InputError, match="unknown toy video 'hard': choose one of easy, crowd"):
        next(draw_video(0, 'hard'))
