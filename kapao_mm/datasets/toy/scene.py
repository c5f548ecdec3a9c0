# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Arranges figures in images of two difficulty levels."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from kapao_mm.errors import InputError

from .figure import ARMS, Figure, Range, random_color, sample_figure
from .render import OVERSAMPLING, paint, render, silhouette

REFERENCE_SIZE = (640, 480)  # image size (w, h) px for which the levels give figure heights


class Level(NamedTuple):
    """Settings of a difficulty level.

    Attributes:
        people: Minimum and maximum number of people.
        height: Minimum and maximum height of a posed figure, px at :data:`REFERENCE_SIZE`.
        cut: Probability that the image border may cut a figure.
        min_visible: Minimum visible share of a figure's silhouette.
        facing, legs, arms: Probabilities of the poses, see :func:`sample_figure`.
        background: Function (rng, (w, h)) -> (h, w, 3) uint8 that draws the background.
    """

    people: tuple[int, int]
    height: Range
    cut: float
    min_visible: float
    facing: tuple[float, float, float]
    legs: dict[str, float]
    arms: dict[str, float]
    background: Callable[[Generator, tuple[int, int]], np.ndarray]


def draw_scene(
    rng: Generator, level: str = 'easy', image_size: tuple[int, int] = (640, 480)
) -> tuple[np.ndarray, list[dict]]:
    """Draws an image of people.

    Args:
        rng: Random generator.
        level: 'easy' (1-2 large people, smooth background) or 'crowd' (1-8 people of all sizes,
            clutter, overlaps).
        image_size: Image size (w, h) px.

    Returns:
        The image, (h, w, 3) uint8 BGR, and the annotations of the visible people in COCO's format
        without ``id`` and ``image_id``.

    Raises:
        InputError: If the level is unknown.
    """
    settings = find_level(level)
    background = settings.background(rng, image_size)
    return render(background, arrange(rng, settings, image_size))


def find_level(name: str) -> Level:
    """Returns the settings of a level, or raises InputError if there is none of this name."""
    if name not in LEVELS:
        raise InputError(f'unknown toy level {name!r}: choose one of {", ".join(LEVELS)}')
    return LEVELS[name]


def arrange(rng: Generator, level: Level, size: tuple[int, int]) -> list[Figure]:
    """Places the figures of a scene, and returns them sorted from far to near.

    A figure is left out if 20 random positions hide too much of it. ``size`` is (w, h) px.
    """
    heights = rng.uniform(*level.height, rng.integers(*level.people, endpoint=True))
    figures: list[Figure] = []
    taken = np.zeros(size[::-1], bool)
    for height in sorted(heights * _relative_scale(size), reverse=True):  # nearer ones are larger
        person = sample_figure(rng, level.facing, level.legs, level.arms)
        left, top, _, bottom = person.box()
        scale = height / (bottom - top)
        person = person.moved(scale, (-left * scale, -top * scale))  # the box starts at (0, 0)
        extent = person.box()[2:]
        min_area = level.min_visible * silhouette(person, tuple(extent.astype(int) + 1)).sum()
        for _ in range(20):
            beyond = 0.35 * extent * (rng.random() < level.cut)  # the border may cut the figure
            corner = rng.uniform(-beyond, np.maximum(size - extent, 0) + beyond)
            figure = person.moved(1, corner)
            mask = silhouette(figure, size)
            if (mask & ~taken).sum() >= min_area:
                figures.append(figure)
                taken |= mask
                break
    return figures[::-1]


def _relative_scale(size: tuple[int, int]) -> float:
    """Returns the scale of an image of ``size`` (w, h) relative to :data:`REFERENCE_SIZE`."""
    return min(np.divide(size, REFERENCE_SIZE))


def _gradient(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """Draws a smooth background (h, w, 3) uint8: four pale colors blended from the corners."""
    corners = [random_color(rng, (0, 360), (0.02, 0.25), (0.45, 1.0)) for _ in range(4)]
    top, bottom = np.array(corners, np.float32).reshape(2, 2, 1, 3)
    x, y = (np.linspace(0, 1, n, dtype=np.float32)[:, None] for n in size)
    top, bottom = (row[0] + (row[1] - row[0]) * x for row in (top, bottom))  # (w, 3)
    return (top + (bottom - top) * y[..., None]).astype(np.uint8)


def _clutter(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """Draws a textured background (h, w, 3) uint8 with random objects."""
    unit = _relative_scale(size)
    texture = np.zeros(size[::-1], np.float32)
    for cells in (6, 24, 96):
        noise = rng.normal(0, rng.uniform(6, 22), (cells * 3 // 4, cells)).astype(np.float32)
        texture += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    x, y = (np.arange(n, dtype=np.float32) for n in size)
    period, angle = rng.uniform(8, 60) * unit, rng.uniform(0, np.pi)
    phase = 2 * np.pi / period * (x * np.cos(angle) + y[:, None] * np.sin(angle))
    texture += rng.uniform(0, 14) * np.sin(phase)
    image = (_gradient(rng, size) + texture[..., None]).clip(0, 255).astype(np.uint8)
    canvas = cv2.resize(image, None, fx=OVERSAMPLING, fy=OVERSAMPLING)
    for _ in range(rng.integers(8, 30)):
        points = rng.uniform((0, 0), size) + rng.normal(0, 45 * unit, (rng.integers(1, 5), 2))
        circles = np.insert(points, 2, rng.uniform(2, 22) * unit, axis=1)
        paint(canvas, circles, random_color(rng, (0, 360), (0, 0.9), (0.2, 1)))
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)


LEVELS = {
    'easy': Level(
        people=(1, 2),
        height=(300, 450),
        cut=0.2,
        min_visible=0.7,
        facing=(0.94, 0.04, 0.02),
        legs=dict(stand=0.4, walk=0.25, step=0.15, spread=0.16, sit=0.04),
        arms=dict(hang=0.3, swing=0.2, akimbo=0.15, raised=0.1, wave=0.1, spread=0.15),
        background=_gradient,
    ),
    'crowd': Level(
        people=(1, 8),
        height=(90, 420),
        cut=0.25,
        min_visible=0.25,
        facing=(0.6, 0.2, 0.2),
        legs=dict(stand=0.25, walk=0.2, step=0.1, spread=0.1, run=0.12, sit=0.13, crouch=0.1),
        arms=dict.fromkeys(ARMS, 1 / len(ARMS)),
        background=_clutter,
    ),
}
