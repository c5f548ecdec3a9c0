# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Generates a synthetic dataset of drawn people in COCO format, for the demo and for tests.

Figures are posed in three dimensions and drawn part by part from far to near, with numpy and
OpenCV. A buffer of part ids is drawn together with the colors and tells which keypoints are
visible. The left side of the body has warm colors (red, orange, yellow) and the right side cool
colors (green, blue) on every limb, shoe, ear and eye.

    python -m kapao_mm.datasets.toy data/toy --level easy
"""

import argparse
import colorsys
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path
from kapao_mm.utils.cli import exit_on_input_error

KEYPOINTS = (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder',
    'left_elbow', 'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip',
    'left_knee', 'right_knee', 'left_ankle', 'right_ankle',
)  # fmt: skip
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
# Indices of the left keypoints; the right one follows each.
NOSE, EYE, EAR, SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE = 0, 1, 3, 5, 7, 9, 11, 13, 15

VERSION = 1  # raise it when the same seed gives other images
REFERENCE_SIZE = (640, 480)  # image size (w, h) px for which the levels give figure heights
OVERSAMPLING = 2  # subpixels for each pixel and axis while drawing
SUBPIXEL_BITS = 4  # fractional bits of polygon corners in OpenCV
JPEG_QUALITY = 95

Colour = tuple[float, float, float]  # BGR, 0..255
Range = tuple[float, float]
Angles = tuple[Range, ...]
BLACK, WHITE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)
LIGHT = np.array([-0.6, -0.8])  # direction towards the light, in image axes
SPINE = np.array([0, 0.31, 0])  # from the neck to the middle of the hips, in body axes


class Part(NamedTuple):
    """A body part, drawn as the convex hull of circles.

    Attributes:
        circles: Circles (x, y, radius), (n, 3).
        depth: Depth; larger is nearer.
        colour: Color of the lit side.
        keypoints: Indices of the keypoints that are visible where this part is visible.
    """

    circles: np.ndarray
    depth: float
    colour: Colour
    keypoints: tuple[int, ...] = ()


Limb = tuple[list[Part], dict[int, np.ndarray]]  # parts, and positions (3,) by keypoint index


class Figure(NamedTuple):
    """A person in a pose.

    Attributes:
        keypoints: Keypoints, (17, 2), in the same unit as the parts.
        parts: Body parts, sorted from far to near.
    """

    keypoints: np.ndarray
    parts: tuple[Part, ...]

    def box(self) -> np.ndarray:
        """Returns the bounding box of all parts, (4,) xyxy."""
        circles = np.concatenate([part.circles for part in self.parts])
        xy, radius = circles[:, :2], circles[:, 2:]
        return np.concatenate([(xy - radius).min(0), (xy + radius).max(0)])

    def placed(self, scale: float, shift: Sequence[float]) -> 'Figure':
        """Returns the figure scaled by `scale` and then moved by `shift` (2,)."""
        moved = np.array([*shift, 0.0])
        parts = tuple(part._replace(circles=part.circles * scale + moved) for part in self.parts)
        return Figure(self.keypoints * scale + moved[:2], parts)


# Ranges of angles in degrees. A limb at rest hangs down; flexion swings it forward, abduction
# outward. Legs: flexion, abduction, bend of the knee. Arms: flexion, abduction, forward bend of the
# elbow, outward turn of the forearm. One row is used for both sides, two rows are assigned to the
# sides at random.
_STRAIGHT = ((-4, 8), (2, 9), (0, 8))
LEGS: dict[str, tuple[Angles, ...]] = {
    'stand': (_STRAIGHT,),
    'walk': (((14, 32), (1, 7), (4, 25)), ((-28, -10), (1, 7), (8, 45))),
    'step': (_STRAIGHT, ((5, 25), (14, 30), (5, 35))),
    'spread': (((-5, 10), (16, 30), (0, 10)),),
    'run': (((45, 75), (0, 8), (60, 100)), ((-35, -10), (0, 8), (30, 80))),
    'sit': (((70, 90), (5, 22), (70, 95)),),
    'crouch': (((80, 105), (22, 40), (105, 130)),),
}
_HANG = ((-12, 14), (7, 20), (4, 30), (-10, 6))
ARMS: dict[str, tuple[Angles, ...]] = {
    'hang': (_HANG,),
    'swing': (((12, 40), (6, 14), (15, 60), (-8, 4)), ((-38, -12), (6, 14), (5, 30), (-8, 4))),
    'akimbo': (((-16, 0), (38, 55), (0, 20), (-100, -78)),),
    'raised': (((-12, 12), (125, 165), (-10, 10), (-10, 30)),),
    'wave': (((-10, 10), (80, 130), (-10, 10), (30, 75)), _HANG),
    'spread': (((-10, 10), (60, 105), (-10, 10), (-25, 25)),),
    'flexed': (((-10, 10), (65, 95), (-10, 10), (65, 100)),),
    'reach': (((55, 95), (2, 20), (0, 35), (-8, 8)), _HANG),
    'folded': (((15, 35), (8, 20), (45, 75), (-55, -35)),),
}


class Level(NamedTuple):
    """Settings of a difficulty level.

    Attributes:
        people: Minimum and maximum number of people.
        height: Minimum and maximum height of a posed figure, px at :data:`REFERENCE_SIZE`.
        cut: Probability that the image border may cut a figure.
        min_visible: Minimum visible share of a figure's silhouette.
        facing: Probabilities of front, side and back view.
        legs: Poses of the legs with their probabilities.
        arms: Poses of the arms with their probabilities.
        background: Function (rng, (w, h)) -> (h, w, 3) uint8 that draws the background.
    """

    people: tuple[int, int]
    height: Range
    cut: float
    min_visible: float
    facing: tuple[float, float, float]
    legs: dict[str, float]
    arms: dict[str, float]
    background: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def _turn(yaw: float, pitch: float = 0, roll: float = 0) -> np.ndarray:
    """Returns the body axes left, down and forward as the rows of a matrix (3, 3).

    The columns are x to the right, y down and z towards the viewer.

    Args:
        yaw: Turn of the body in degrees; 0 faces the viewer, and the left of the body is on the
            right of the image.
        pitch: Forward lean in degrees.
        roll: Lean to the body's left in degrees.
    """
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    rolled = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    pitched = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    yawed = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    return rolled @ pitched @ yawed


def _index(left: int, side: int) -> int:
    """Returns the index of a keypoint on a side.

    Args:
        left: Index of the left keypoint.
        side: 1 for left, -1 for right.
    """
    return left + (side < 0)


def _direction(flexion: float, abduction: float, side: int) -> np.ndarray:
    """Returns the unit vector (3,) along a limb, in body axes.

    Args:
        flexion: Forward swing in degrees.
        abduction: Outward swing in degrees.
        side: 1 for left, -1 for right.
    """
    f, a = np.radians([flexion, abduction])
    return np.array([side * np.sin(a), np.cos(a) * np.cos(f), np.cos(a) * np.sin(f)])


def _colour(rng: np.random.Generator, hue: Range, saturation: Range, value: Range) -> Colour:
    """Returns a random color within ranges of hue (degrees), saturation and value (0..1)."""
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    r, g, b = colorsys.hsv_to_rgb(h / 360 % 1, s, v)
    return 255 * b, 255 * g, 255 * r


def _side_colour(rng: np.random.Generator, side: int) -> Colour:
    """Returns a random strong color: warm for the left side (1), cool for the right side (-1)."""
    return _colour(rng, (-15, 50) if side > 0 else (165, 255), (0.7, 1.0), (0.6, 0.95))


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """Returns `colour` mixed with a share (0..1) of another color."""
    return tuple(a + (b - a) * share for a, b in zip(colour, other, strict=True))


class Look(NamedTuple):
    """Look of a person, except for the colors of the sides; `build` scales the thickness."""

    skin: Colour
    hair: Colour
    shirt: Colour
    shorts: Colour
    long_hair: bool
    long_sleeves: bool
    long_trousers: bool
    build: float


def _sample_look(rng: np.random.Generator) -> Look:
    darkness = rng.random()
    return Look(
        skin=_colour(rng, (15, 27), (0.3 + 0.25 * darkness,) * 2, (1 - 0.55 * darkness,) * 2),
        hair=_colour(rng, (10, 45), (0.1, 0.75), (0.08, 0.75)),
        shirt=_colour(rng, (0, 360), (0.0, 0.35), (0.25, 0.95)),
        shorts=_colour(rng, (0, 360), (0.0, 0.3), (0.15, 0.6)),
        long_hair=rng.random() < 0.4,
        long_sleeves=rng.random() < 0.65,
        long_trousers=rng.random() < 0.7,
        build=rng.uniform(0.88, 1.22),
    )


def _part(points, radii, colour: Colour, keypoints: tuple[int, ...] = (), lift: float = 0) -> Part:
    """Creates a part around points (n, 3) or (3,); its depth is their mean depth plus `lift`."""
    points = np.atleast_2d(points)
    circles = np.column_stack([points[:, :2], np.broadcast_to(radii, len(points))])
    return Part(circles, points[:, 2].mean() + lift, colour, keypoints)


def _trunk(look: Look, torso: np.ndarray, pelvis: np.ndarray) -> list[Part]:
    """Creates shirt, shorts and neck; `torso` and `pelvis` are body axes (3, 3)."""
    chest = np.array([[-0.062, 0.045, 0], [0.062, 0.045, 0]]) @ torso
    waist = np.array([[-0.035, 0.2, 0], [0.035, 0.2, 0]]) @ torso
    hips = SPINE @ torso + np.array([[-0.05, 0, 0], [0.05, 0, 0]]) @ pelvis
    neck = np.array([[0, 0, 0], [0, -0.065, 0]]) @ torso
    r = np.array([0.068, 0.068, 0.062, 0.062]) * look.build
    return [
        _part([*chest, *waist], r, look.shirt),
        _part([*waist, *hips], r[[2, 2, 3, 3]] * 0.97, look.shorts, lift=-0.004),
        _part(neck, 0.036 * look.build, _mixed(look.skin, BLACK, 0.15), lift=-0.01),
    ]


def _head(rng: np.random.Generator, look: Look, torso: np.ndarray, head: np.ndarray) -> Limb:
    """Creates head, hair and face; `torso` and `head` are body axes (3, 3)."""
    size = 0.115  # large, so that face keypoints stay apart in small network inputs
    centre = np.array([0, -0.035, 0.012]) @ torso + np.array([0, -0.8 * size, 0]) @ head

    def at(*place: float) -> np.ndarray:
        return centre + size * np.array(place) @ head

    def piece(places, radii, colour, keypoints=(), lift=0.0) -> Part:
        points = [at(*place) for place in places]
        return _part(points, size * np.array(radii), colour, keypoints, size * lift)

    lips = (-0.28, 0.58, 0.85), (0, 0.66, 0.9), (0.28, 0.58, 0.85)
    joints = {NOSE: at(0, 0.22, 1.08)}
    parts = [
        piece([(0, -0.12, 0), (0, 0.42, 0.1)], [1, 0.72], look.skin),
        piece([(0, -0.35, -0.24), (0, 0, -0.5)], [0.82, 0.82], look.hair, lift=0.1),
        piece([(-0.4, -0.8, 0.02), (0.4, -0.8, 0.02)], 0.36, look.hair, lift=0.1),
        piece(lips, 0.075, (70, 60, 170)),
        piece([(0, 0.22, 1.08)], 0.16, _mixed(look.skin, (60, 70, 235), 0.6), (NOSE,)),
    ]
    if look.long_hair:
        nape = np.array([0, 0.03, -0.075]) @ torso
        parts.append(_part([at(0, 0.1, -0.55), nape], size * np.array([0.85, 0.6]), look.hair))
    for side in (1, -1):
        tint = _side_colour(rng, side)
        eye, ear = (_index(k, side) for k in (EYE, EAR))
        eye_place, ear_place = (side * 0.46, -0.12, 0.84), (side * 1.1, 0.08, -0.05)
        joints[eye], joints[ear] = at(*eye_place), at(*ear_place)
        parts += [
            piece([(side * 0.75, -0.6, 0.42), (side * -0.05, -0.92, 0.35)], 0.23, look.hair),
            piece([eye_place], 0.22, WHITE, (eye,)),
            piece([eye_place], 0.13, _mixed(tint, BLACK, 0.25), (eye,), lift=0.001),
            piece([ear_place], 0.26, look.skin, (ear,), lift=0.2),
            piece([ear_place], 0.16, tint, (ear,), lift=0.201),
        ]
    return parts, joints


def _arm(
    rng: np.random.Generator, look: Look, torso: np.ndarray, angles: Angles, side: int
) -> Limb:
    """Creates an arm; `torso` is body axes (3, 3)."""
    flexion, abduction, bend, outward = (rng.uniform(*limits) for limits in angles)
    upper = _direction(flexion, abduction, side) @ torso
    lower = _direction(flexion + bend, abduction + outward, side) @ torso
    shoulder = np.array([side * 0.12, 0.025, 0]) @ torso
    elbow = shoulder + 0.165 * upper
    wrist = elbow + 0.15 * lower
    s, e, w = (_index(k, side) for k in (SHOULDER, ELBOW, WRIST))
    cloth = _side_colour(rng, side)
    band = _mixed(cloth, WHITE, 0.45)
    r = np.array([0.044, 0.034, 0.027]) * look.build
    # Depth offsets: arms are drawn in front of the trunk unless the body is turned far away, and
    # marks (bands at the joints) in front of the limbs.
    near, mark = 0.08, 0.135
    parts = [
        _part([shoulder, elbow], r[:2], cloth, (s, e), near),
        _part([elbow, wrist], r[1:], cloth if look.long_sleeves else look.skin, (w,), near),
        _part(wrist + np.outer([0.025, 0.05], lower), 0.92 * r[2], look.skin, (w,), near),
        _part(shoulder, r[0], cloth, (s,), near + 0.005),
        _part(elbow, 0.8 * r[1], band, (e,), mark),
        _part(wrist + np.outer([-0.008, 0.008], lower), 1.08 * r[2], band, (w,), mark),
    ]
    return parts, {s: shoulder, e: elbow, w: wrist}


def _leg(
    rng: np.random.Generator,
    look: Look,
    hips: np.ndarray,
    pelvis: np.ndarray,
    angles: Angles,
    side: int,
) -> Limb:
    """Creates a leg; `hips` (3,) is the middle of the hips, `pelvis` is body axes (3, 3)."""
    flexion, abduction, bend = (rng.uniform(*limits) for limits in angles)
    shin = flexion - bend
    hip = hips + np.array([side * 0.068, 0.02, 0]) @ pelvis
    knee = hip + 0.235 * _direction(flexion, abduction, side) @ pelvis
    ankle = knee + 0.22 * _direction(shin, 0.6 * abduction, side) @ pelvis
    toes = _direction(min(shin + 80, 85), 18, side) @ pelvis
    heel = ankle + np.array([0, 0.03, 0]) @ pelvis
    h, k, a = (_index(k, side) for k in (HIP, KNEE, ANKLE))
    cloth = _side_colour(rng, side)
    band, shoe = _mixed(cloth, WHITE, 0.45), _mixed(cloth, BLACK, 0.35)
    r = np.array([0.06, 0.044, 0.03]) * look.build
    near, mark = 0.05, 0.105  # depth offsets as in _arm
    parts = [
        _part([hip, knee], r[:2], cloth, (h, k), near),
        _part([knee, ankle], r[1:], cloth if look.long_trousers else look.skin, (a,), near),
        _part(heel + np.outer([-0.02, 0.07], toes), [0.03, 0.026], shoe, (a,), near),
        _part(knee, 0.78 * r[1], band, (k,), mark),
        _part(ankle, 1.05 * r[2], band, (a,), mark),
    ]
    return parts, {h: hip, k: knee, a: ankle}


def sample_figure(rng: np.random.Generator, level: str = 'easy') -> Figure:
    """Creates a person with a random pose and random clothes.

    Args:
        rng: Random generator.
        level: 'easy' or 'crowd'.

    Returns:
        The figure, with the neck at the origin and a height of about 1 when it stands.

    Raises:
        InputError: If the level is unknown.
    """
    limits = _level(level)
    facing = rng.choice(3, p=limits.facing)
    yaw = rng.uniform((-40, 40, 140)[facing], (40, 95, 220)[facing]) * rng.choice([-1, 1])
    pose = rng.choice(list(limits.legs), p=list(limits.legs.values()))
    lean = rng.uniform(*((8, 25) if pose in ('sit', 'crouch', 'run') else (-4, 10)))
    tilt = rng.uniform(-7, 7)
    pelvis = _turn(yaw, 0, tilt)
    torso = _turn(yaw, lean, tilt + rng.uniform(-7, 7))
    head = _turn(yaw + rng.uniform(-22, 22), rng.uniform(-10, 14), tilt + rng.uniform(-10, 10))
    look = _sample_look(rng)
    limbs = [(_trunk(look, torso, pelvis), {}), _head(rng, look, torso, head)]
    arms = ARMS[rng.choice(list(limits.arms), p=list(limits.arms.values()))]
    legs = LEGS[pose]
    for angles, side in zip((arms[0], arms[-1]), rng.permutation([1, -1]), strict=True):
        limbs.append(_arm(rng, look, torso, angles, side))
    for angles, side in zip((legs[0], legs[-1]), rng.permutation([1, -1]), strict=True):
        limbs.append(_leg(rng, look, SPINE @ torso, pelvis, angles, side))
    joints = {index: place for _, places in limbs for index, place in places.items()}
    keypoints = np.array([joints[index][:2] for index in range(len(KEYPOINTS))])
    parts = sorted((part for parts, _ in limbs for part in parts), key=lambda part: part.depth)
    return Figure(keypoints, tuple(parts))


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def _corners(circles: np.ndarray, scale: int = 1) -> np.ndarray:
    """Returns polygon corners around circles, in OpenCV's fixed-point format.

    Args:
        circles: Circles (x, y, radius), (..., n, 3) px.
        scale: Number of subpixels for each pixel.

    Returns:
        Corners, (..., n * 24, 2) int32, in fractions of a subpixel.
    """
    centres, radii = np.split(circles[..., None, :] * float(scale), [2], axis=-1)
    radii = np.maximum(radii - 0.4, 0)  # OpenCV fills about 0.4 px beyond the corners
    points = centres + (scale - 1) / 2 + radii * _CIRCLE  # (..., n, 24, 2)
    points = np.rint(points * 2**SUBPIXEL_BITS).astype(np.int32)
    return points.reshape(*circles.shape[:-2], -1, 2)


def _fill(canvas: np.ndarray, corners: np.ndarray, value: float | Sequence[float]) -> None:
    """Fills the convex hull of corners (m, 2) from :func:`_corners`."""
    cv2.fillConvexPoly(canvas, cv2.convexHull(corners), value, cv2.LINE_8, SUBPIXEL_BITS)


def _paint(canvas: np.ndarray, circles: np.ndarray, colour: Colour) -> None:
    """Draws the hull of circles (n, 3) px, shaded like a cylinder, on an oversampled canvas."""
    shades = int(np.clip(circles[:, 2].max(), 2, 7))  # at most one for each pixel of the radius
    sizes = np.linspace(1, 0.16, shades)[:, None]
    lit = np.tile(circles, (shades, 1, 1))  # (shades, n, 3)
    lit[..., :2] += LIGHT * (lit[..., 2:] * (1 - sizes[..., None]) / 2)
    lit[..., 2] *= sizes
    colours = np.minimum(colour * (0.58 + 0.47 * np.sqrt(1 - sizes**2)), 255)  # (shades, 3)
    for corners, shade in zip(_corners(lit, OVERSAMPLING), colours.tolist(), strict=True):
        _fill(canvas, corners, shade)


def render(background: np.ndarray, figures: Sequence[Figure]) -> tuple[np.ndarray, list[dict]]:
    """Draws figures onto a background and annotates those that are visible.

    Args:
        background: Background, (h, w, 3) uint8 BGR.
        figures: Figures in px, sorted from far to near.

    Returns:
        The image, (h, w, 3) uint8 BGR, and for each visible figure an annotation in COCO's format
        without `id` and `image_id`.
    """
    canvas = cv2.resize(background, None, fx=OVERSAMPLING, fy=OVERSAMPLING)
    ids = np.zeros(background.shape[:2], np.uint16)  # part id of each pixel; 0 is background
    owner, shows = [-1], [()]  # index of the figure, and keypoints, of each part id
    for number, figure in enumerate(figures):
        for part in figure.parts:
            _paint(canvas, part.circles, part.colour)
            _fill(ids, _corners(part.circles), len(owner))
            owner.append(number)
            shows.append(part.keypoints)
    image = cv2.resize(canvas, background.shape[1::-1], interpolation=cv2.INTER_AREA)
    owners = np.array(owner)[ids]
    annotations = []
    for number, figure in enumerate(figures):
        mask = owners == number
        if mask.any():
            annotations.append(_annotation(mask, figure.keypoints, np.where(mask, ids, 0), shows))
    return image, annotations


def _annotation(
    mask: np.ndarray, keypoints: np.ndarray, ids: np.ndarray, shows: list[tuple[int, ...]]
) -> dict:
    """Creates a COCO annotation of a person, without `id` and `image_id`.

    Args:
        mask: Visible pixels of the person, (h, w) bool.
        keypoints: Keypoints, (17, 2) px.
        ids: Part ids of the person's pixels, 0 elsewhere, (h, w).
        shows: Keypoints that are visible where a part is visible, by part id.
    """
    labels = []
    for index, point in enumerate(keypoints.round(2).tolist()):
        x, y = map(round, point)
        if min(point) >= 0 and point[0] <= mask.shape[1] - 1 and point[1] <= mask.shape[0] - 1:
            labels.append((*point, 2 if index in shows[ids[y, x]] else 1))
        else:
            labels.append((0, 0, 0))
    mask = mask.astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)
    return dict(
        category_id=1,
        bbox=list(cv2.boundingRect(mask)),
        area=int(mask.sum()),
        iscrowd=0,
        num_keypoints=sum(v > 0 for _, _, v in labels),
        keypoints=[value for label in labels for value in label],
        segmentation=[outline.ravel().tolist() for outline in outlines if len(outline) > 2],
    )


def _silhouette(figure: Figure, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask (h, w) bool of a figure that is alone in an image of `size` (w, h) px."""
    mask = np.zeros(size[::-1], np.uint8)
    for part in figure.parts:
        _fill(mask, _corners(part.circles), 1)
    return mask.astype(bool)


def _arrange(rng: np.random.Generator, level: str, size: tuple[int, int]) -> list[Figure]:
    """Places the figures of a scene, and returns them sorted from far to near.

    A figure is left out if 20 random positions hide too much of it.

    Args:
        rng: Random generator.
        level: 'easy' or 'crowd'.
        size: Image size (w, h) px.
    """
    limits = _level(level)
    heights = rng.uniform(*limits.height, rng.integers(*limits.people, endpoint=True))
    figures: list[Figure] = []
    taken = np.zeros(size[::-1], bool)
    for height in sorted(heights * _unit(size), reverse=True):  # nearer figures are larger
        person = _standardised(sample_figure(rng, level), height)
        extent = person.box()[2:]
        least = limits.min_visible * _silhouette(person, tuple(extent.astype(int) + 1)).sum()
        for _ in range(20):
            beyond = 0.35 * extent * (rng.random() < limits.cut)  # the border may cut the figure
            corner = rng.uniform(-beyond, np.maximum(size - extent, 0) + beyond)
            figure = person.placed(1, corner)
            mask = _silhouette(figure, size)
            if (mask & ~taken).sum() >= least:
                figures.append(figure)
                taken |= mask
                break
    return figures[::-1]


def _standardised(figure: Figure, height: float) -> Figure:
    """Returns the figure scaled to `height`, with its bounding box starting at the origin."""
    left, top, _, bottom = figure.box()
    scale = height / (bottom - top)
    return figure.placed(scale, (-left * scale, -top * scale))


def _unit(size: tuple[int, int]) -> float:
    """Returns the scale of an image of `size` (w, h) relative to :data:`REFERENCE_SIZE`."""
    return min(np.divide(size, REFERENCE_SIZE))


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draws a smooth background (h, w, 3) uint8: four pale colors blended from the corners."""
    corners = [_colour(rng, (0, 360), (0.02, 0.25), (0.45, 1.0)) for _ in range(4)]
    top, bottom = np.array(corners, np.float32).reshape(2, 2, 1, 3)
    x, y = (np.linspace(0, 1, n, dtype=np.float32)[:, None] for n in size)
    top, bottom = (row[0] + (row[1] - row[0]) * x for row in (top, bottom))  # (w, 3)
    return (top + (bottom - top) * y[..., None]).astype(np.uint8)


def _clutter(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draws a textured background (h, w, 3) uint8 with random objects."""
    unit = _unit(size)
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
        _paint(canvas, circles, _colour(rng, (0, 360), (0, 0.9), (0.2, 1)))
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


def _level(name: str) -> Level:
    if name not in LEVELS:
        raise InputError(f'unknown toy level {name!r}: choose one of {", ".join(LEVELS)}')
    return LEVELS[name]


def draw_scene(
    rng: np.random.Generator, level: str = 'easy', image_size: tuple[int, int] = (640, 480)
) -> tuple[np.ndarray, list[dict]]:
    """Draws an image of people.

    Args:
        rng: Random generator.
        level: 'easy' (1-2 large people, smooth background) or 'crowd' (1-8 people of all sizes,
            clutter, overlaps).
        image_size: Image size (w, h) px.

    Returns:
        The image and its annotations, as returned by :func:`render`.

    Raises:
        InputError: If the level is unknown.
    """
    background = _level(level).background(rng, image_size)
    return render(background, _arrange(rng, level, image_size))


def make_toy_dataset(
    root: str | Path,
    level: str = 'easy',
    num_train: int = 300,
    num_val: int = 60,
    image_size: tuple[int, int] = (640, 480),
    seed: int = 0,
) -> Path:
    """Writes a toy dataset in COCO's layout, unless `root` already contains the same one.

    The annotations are written last, so that an interrupted run leaves no incomplete dataset. An
    image depends on its level, size, seed, split and index, but not on the number of images.

    Args:
        root: Folder for `annotations/person_keypoints_{train,val}.json`, `train2017/`, `val2017/`.
        level: 'easy' or 'crowd', see :func:`draw_scene`.
        num_train: Number of training images.
        num_val: Number of validation images.
        image_size: Image size (w, h) px.
        seed: Seed of the random generator, at least 0.

    Returns:
        `root` as a Path.

    Raises:
        InputError: If an argument is out of range, or `root` contains another kind of dataset.
    """
    _level(level)
    if min(num_train, num_val) < 1 or min(image_size) < 64 or seed < 0:
        raise InputError(
            'a toy dataset needs 1 image a split, 64 px a side and a seed of 0 at the least: got '
            f'{num_train} and {num_val} images of {image_size[0]} x {image_size[1]} px, seed {seed}'
        )
    root = Path(root)
    same = dict(toy_version=VERSION, level=level, seed=seed, image_size=list(image_size))
    infos = {'train': {**same, 'images': num_train}, 'val': {**same, 'images': num_val}}
    what = f'{num_train} + {num_val} toy images ({level}, seed {seed})'
    held = [_holds(root, split, info) for split, info in infos.items()]
    if all(held):
        print(f'{root} already holds {what}')
        return root
    for split in infos:
        _annotation_file(root, split).unlink(missing_ok=True)
    contents = {split: _write_images(root, split, **info) for split, info in infos.items()}
    for split, content in contents.items():
        path = _annotation_file(root, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({'info': infos[split], **content}))
    print(f'wrote {what} to {root}')
    return root


def _annotation_file(root: Path, split: str) -> Path:
    return root / 'annotations' / f'person_keypoints_{split}.json'


def _holds(root: Path, split: str, info: dict) -> bool:
    """Returns whether `root` contains the split described by `info`.

    Raises:
        InputError: If `root` contains a dataset that is not a toy dataset.
    """
    path = _annotation_file(root, split)
    if not path.exists():
        return False
    content = json.loads(path.read_text())
    if 'toy_version' not in content.get('info', {}):
        raise InputError(f'{path} is not a toy dataset and is left alone: name another folder')
    files = (root / f'{split}2017' / image['file_name'] for image in content['images'])
    return content['info'] == info and all(file.is_file() for file in files)


def _write_images(
    root: Path,
    split: str,
    level: str,
    seed: int,
    images: int,
    image_size: Sequence[int],
    toy_version: int,
) -> dict:
    """Writes the images of a split, and returns its COCO annotations without `info`."""
    folder = root / f'{split}2017'
    folder.mkdir(parents=True, exist_ok=True)
    number = ('train', 'val').index(split)
    records, people = [], []
    for index in range(images):
        rng = np.random.default_rng((seed, number, index))
        image, annotations = draw_scene(rng, level, tuple(image_size))
        image_id = number * 1_000_000 + index + 1
        path = folder / f'toy_{image_id:07d}.jpg'
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise InputError(f'cannot write {path}: check the disk and its permissions')
        records.append(
            dict(id=image_id, file_name=path.name, width=image_size[0], height=image_size[1])
        )
        for rank, annotation in enumerate(annotations):
            people.append(dict(id=image_id * 100 + rank, image_id=image_id, **annotation))
    person = dict(
        id=1, name='person', supercategory='person', keypoints=KEYPOINTS, skeleton=SKELETON
    )
    return dict(licenses=[], images=records, annotations=people, categories=[person])


def main() -> None:
    """Runs the command line `python -m kapao_mm.datasets.toy ROOT`."""
    parser = argparse.ArgumentParser(description='Write a toy dataset of drawn people.')
    parser.add_argument('root', type=Path)
    parser.add_argument('--level', choices=LEVELS, default='easy')
    parser.add_argument('--train', type=int, default=300, help='number of training images')
    parser.add_argument('--val', type=int, default=60, help='number of validation images')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with exit_on_input_error():
        make_toy_dataset(args.root, args.level, args.train, args.val, seed=args.seed)


if __name__ == '__main__':
    main()
