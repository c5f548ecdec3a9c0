# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws videos of people who walk, cross, hide each other, leave, come in, and sit still."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from kapao_mm.errors import InputError

from .figure import (
    SPINE,
    Figure,
    Range,
    assemble,
    body_axes,
    make_arm,
    make_head,
    make_leg,
    make_trunk,
    sample_look,
)
from .render import render_all, silhouette
from .scene import LEVELS, REFERENCE_SIZE

STRIDE = 0.85  # path of two steps, as a fraction of the height
SPEED = (0.55, 0.95)  # of walking, heights per second
ROLES = ('cross', 'cross', 'pace', 'sit')  # of the people, in turn


class VideoLevel(NamedTuple):
    """Settings of a difficulty level.

    Attributes:
        people: Number of people in the whole video.
        height: Minimum and maximum height of a standing person, px at :data:`REFERENCE_SIZE`.
        ground: Where the feet of the smallest and largest people are, fractions of the height of
            the image.
        turn: Angle in degrees by which people are turned to where they walk.
        background: Function (rng, (w, h)) -> (h, w, 3) uint8 that draws the background.
    """

    people: int
    height: Range
    ground: Range
    turn: float
    background: Callable[[Generator, tuple[int, int]], np.ndarray]


VIDEO_LEVELS = {
    'easy': VideoLevel(3, (300, 370), (0.86, 0.97), 35, LEVELS['easy'].background),
    'crowd': VideoLevel(9, (120, 250), (0.58, 0.95), 70, LEVELS['crowd'].background),
}


class Actor(NamedTuple):
    """A person of a video.

    Attributes:
        seed: Seed of the look.
        role: What the person does, one of :data:`ROLES`.
        height: Height when standing, px.
        ground: y of the lower foot, px.
        x: x of the neck at time 0, px.
        speed: Speed of walking to the right, px/s; negative to the left.
        reach: Farthest that a person who paces goes from ``x``, px.
        turn: Angle in degrees by which the person is turned to where they walk.
    """

    seed: int
    role: str
    height: float
    ground: float
    x: float
    speed: float
    reach: float
    turn: float


def draw_video(
    seed: int,
    level: str = 'easy',
    num_frames: int = 120,
    image_size: tuple[int, int] = (640, 480),
    fps: float = 30,
) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """Draws a video of toy people with known identities.

    Two of four people walk through the picture from one side to the other, one walks to and fro,
    and one sits. Nearer people hide those behind them.

    Args:
        seed: Seed of the random generator, at least 0.
        level: 'easy' (3 large people, smooth background) or 'crowd' (9 small people, clutter).
        num_frames: Number of frames.
        image_size: Image size (w, h) px.
        fps: Frames per second.

    Yields:
        A frame, (h, w, 3) uint8 BGR, and the annotations of the people in it, in COCO's format.
        Each has ``image_id`` (number of the frame, from 1), ``id`` and ``track_id`` (number of the
        person, from 1). People of whom less than a quarter is visible are not annotated.

    Raises:
        InputError: If the level is unknown.
    """
    if level not in VIDEO_LEVELS:
        raise InputError(f'unknown toy video {level!r}: choose one of {", ".join(VIDEO_LEVELS)}')
    settings = VIDEO_LEVELS[level]
    rng = np.random.default_rng(seed)
    background = settings.background(rng, image_size)
    actors = cast_actors(rng, settings, image_size, num_frames / fps)
    min_visible = LEVELS['crowd'].min_visible
    for number in range(num_frames):
        figures = [pose_actor(actor, number / fps) for actor in actors]
        image, annotations = render_all(background, figures)
        people = [
            dict(
                annotation,
                id=number * len(actors) + track_id,
                image_id=number + 1,
                track_id=track_id,
            )
            for track_id, (figure, annotation) in enumerate(
                zip(figures, annotations, strict=True), start=1
            )
            if annotation and annotation['area'] >= min_visible * _whole_area(figure)
        ]
        yield image, people


def cast_actors(
    rng: Generator, level: VideoLevel, size: tuple[int, int], seconds: float
) -> list[Actor]:
    """Chooses the people of a video, sorted from far to near.

    Args:
        rng: Random generator.
        level: Settings.
        size: Image size (w, h) px.
        seconds: Length of the video.
    """
    scale = min(np.divide(size, REFERENCE_SIZE))
    direction = rng.choice([-1, 1])
    actors = []
    for number in range(level.people):
        role = ROLES[number % len(ROLES)]
        height = rng.uniform(*level.height)
        ground = np.interp(height, level.height, level.ground) * size[1]
        height *= scale
        speed = rng.uniform(*SPEED) * height * direction
        x = rng.uniform(0.3, 0.7) * size[0]
        if role == 'cross':
            direction *= -1  # the next one comes from the other side
            x -= speed * rng.uniform(0.25, 0.75) * seconds  # is at the old x in mid-video
        reach = min(1.2 * height, min(x, size[0] - x) - 0.1 * size[0])  # stays in the picture
        seed = int(rng.integers(2**32))
        actors.append(Actor(seed, role, height, ground, x, speed, reach, level.turn))
    return sorted(actors, key=lambda actor: actor.ground)


def pose_actor(actor: Actor, time: float) -> Figure:
    """Returns the figure of a person at a time (s), in px.

    The random generator of the look starts anew in each frame, and all angles are fixed, so that
    only the pose changes.
    """
    rng = np.random.default_rng(actor.seed)
    x, walked, heading = _path(actor, time)
    yaw = actor.turn * heading
    sits = actor.role == 'sit'
    phase = 2 * np.pi * walked / (STRIDE * actor.height) + rng.uniform(0, 2 * np.pi)
    look = sample_look(rng)
    nod = 4 * np.sin(time)  # nobody is quite still
    torso, pelvis = body_axes(yaw, 12 if sits else 3), body_axes(yaw)
    head = body_axes(0.7 * yaw + 2 * nod, nod)
    regions = [(make_trunk(look, torso, pelvis), {}), make_head(rng, look, torso, head)]
    for side in (1, -1):
        swing = np.sin(phase) * side
        if sits:
            leg, arm = (80, 14, 82), (25, 12, 50, -8)
        else:
            lifted = max(np.cos(phase) * side, 0)  # the foot, while the leg swings forward
            leg = (25 * swing + 3, 4, 8 + 40 * lifted)
            arm = (-27 * swing, 10, 22 - 10 * swing, -4)
        regions.append(make_arm(rng, look, torso, tuple((a, a) for a in arm), side))
        regions.append(make_leg(rng, look, SPINE @ torso, pelvis, tuple((a, a) for a in leg), side))
    figure = assemble(regions)
    bottom = actor.ground - actor.height * figure.box()[3]
    return figure.moved(actor.height, (x, bottom))


def _path(actor: Actor, time: float) -> tuple[float, float, float]:
    """Returns x (px), the walked path (px), and the direction, -1 (left) to 1 (right)."""
    if actor.role == 'sit':
        return actor.x, 0.0, 0.3 * np.sign(actor.speed)
    if actor.role == 'cross':
        return actor.x + actor.speed * time, abs(actor.speed) * time, np.sign(actor.speed)
    angle = actor.speed / actor.reach * time
    half_turns = round(abs(angle) / np.pi)
    walked = actor.reach * (2 * half_turns + (-1) ** half_turns * np.sin(abs(angle)))
    return actor.x + actor.reach * np.sin(angle), walked, np.sign(actor.speed) * np.cos(angle)


def _whole_area(figure: Figure) -> int:
    """Returns the number of px that a figure fills if nothing hides it and no border cuts it."""
    left, top, right, bottom = figure.box()
    size = (int(right - left) + 2, int(bottom - top) + 2)
    return silhouette(figure.moved(1, (-left, -top)), size).sum()
