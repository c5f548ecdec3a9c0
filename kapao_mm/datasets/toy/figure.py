# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Creates random people for drawing: their pose, clothes, body parts and keypoints.

Until a figure is scaled to px, lengths are in units of about the height of a standing person.
Positions are (x, y, z), with x to the right of the image, y down and z towards the viewer.
"""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

KEYPOINTS = (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder',
    'left_elbow', 'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip',
    'left_knee', 'right_knee', 'left_ankle', 'right_ankle',
)  # fmt: skip
# Indices of the nose and of the left keypoints; each right keypoint follows its left one.
NOSE, EYE, EAR, SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE = 0, 1, 3, 5, 7, 9, 11, 13, 15

SPINE = np.array([0, 0.31, 0])  # from the neck to the middle of the hips, in body axes
# Added to the depths of limbs and of the colored bands at their joints, so that they are drawn in
# front of the trunk, except those on the far side of a body that is seen from the side.
ARM_LIFT, ARM_BAND_LIFT, LEG_LIFT, LEG_BAND_LIFT = 0.08, 0.135, 0.05, 0.105

Color = tuple[float, float, float]  # BGR, 0..255
Range = tuple[float, float]
Angles = tuple[Range, ...]
BLACK, WHITE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)

# Poses of legs and arms as ranges of angles in degrees. With angles of 0 a limb hangs straight
# down; flexion swings it forward, abduction outward.
# - Legs: flexion, abduction, bend of the knee.
# - Arms: flexion, abduction, forward bend of the elbow, outward turn of the forearm.
# If a pose has one row of ranges, both sides use it; if it has two, each side gets one at random.
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


class Part(NamedTuple):
    """A body part, drawn as the convex hull of circles.

    Attributes:
        circles: Circles (x, y, radius), (n, 3), in the unit of the figure.
        depth: Position z for the drawing order; larger is nearer to the viewer.
        color: Color before shading.
        keypoints: Indices of the keypoints that are visible where this part is visible.
    """

    circles: np.ndarray
    depth: float
    color: Color
    keypoints: tuple[int, ...] = ()


Region = tuple[list[Part], dict[int, np.ndarray]]  # parts, and keypoints (x, y, z) by index


class Figure(NamedTuple):
    """A person in a pose.

    Attributes:
        keypoints: Keypoints (x, y) in the order of :data:`KEYPOINTS`, (17, 2), in the unit of the
            parts.
        parts: Body parts, sorted from far to near.
    """

    keypoints: np.ndarray
    parts: tuple[Part, ...]

    def box(self) -> np.ndarray:
        """Returns the bounding box of all parts, (4,) xyxy."""
        circles = np.concatenate([part.circles for part in self.parts])
        xy, radius = circles[:, :2], circles[:, 2:]
        return np.concatenate([(xy - radius).min(0), (xy + radius).max(0)])

    def moved(self, scale: float, shift: Sequence[float]) -> 'Figure':
        """Returns the figure scaled by ``scale`` and then moved by ``shift`` (x, y)."""
        offset = np.array([*shift, 0.0])
        parts = tuple(part._replace(circles=part.circles * scale + offset) for part in self.parts)
        return Figure(self.keypoints * scale + offset[:2], parts)


class Look(NamedTuple):
    """Hair, skin, clothes and build of a person.

    The colors of sleeves, trousers and shoes are not included, because they are chosen for
    each limb.

    Attributes:
        skin, hair, shirt, shorts: Colors.
        long_hair: Whether the hair covers the nape.
        long_sleeves: Whether sleeves cover the forearms.
        long_trousers: Whether trousers cover the calves.
        build: Factor of the thickness of trunk and limbs.
    """

    skin: Color
    hair: Color
    shirt: Color
    shorts: Color
    long_hair: bool
    long_sleeves: bool
    long_trousers: bool
    build: float


def sample_figure(
    rng: Generator, facing: Sequence[float], legs: dict[str, float], arms: dict[str, float]
) -> Figure:
    """Creates a person with a random pose and random clothes.

    Args:
        rng: Random generator.
        facing: Probabilities of front, side and back view, (3,).
        legs: Probabilities of poses of the legs, by name in :data:`LEGS`.
        arms: Probabilities of poses of the arms, by name in :data:`ARMS`.

    Returns:
        The figure, with the neck at the origin. A standing figure has a height of about 1.
    """
    view = rng.choice(3, p=facing)
    yaw = rng.uniform((-40, 40, 140)[view], (40, 95, 220)[view]) * rng.choice([-1, 1])
    stance = rng.choice(list(legs), p=list(legs.values()))
    lean = rng.uniform(*((8, 25) if stance in ('sit', 'crouch', 'run') else (-4, 10)))
    tilt = rng.uniform(-7, 7)
    pelvis = body_axes(yaw, 0, tilt)
    torso = body_axes(yaw, lean, tilt + rng.uniform(-7, 7))
    head = body_axes(yaw + rng.uniform(-22, 22), rng.uniform(-10, 14), tilt + rng.uniform(-10, 10))
    look = sample_look(rng)
    regions = [(make_trunk(look, torso, pelvis), {}), make_head(rng, look, torso, head)]
    arm_angles = ARMS[rng.choice(list(arms), p=list(arms.values()))]
    for angles, side in zip((arm_angles[0], arm_angles[-1]), rng.permutation([1, -1]), strict=True):
        regions.append(make_arm(rng, look, torso, angles, side))
    leg_angles = LEGS[stance]
    for angles, side in zip((leg_angles[0], leg_angles[-1]), rng.permutation([1, -1]), strict=True):
        regions.append(make_leg(rng, look, SPINE @ torso, pelvis, angles, side))
    return assemble(regions)


def assemble(regions: Sequence[Region]) -> Figure:
    """Combines body regions into a figure.

    Keypoints that no region has stay at the origin.
    """
    keypoints = np.zeros((len(KEYPOINTS), 2))
    for _, joints in regions:
        for index, position in joints.items():
            keypoints[index] = position[:2]
    parts = sorted((part for parts, _ in regions for part in parts), key=lambda part: part.depth)
    return Figure(keypoints, tuple(parts))


def body_axes(yaw: float, pitch: float = 0, roll: float = 0) -> np.ndarray:
    """Returns the body axes: unit vectors to the body's left, down and forward.

    Args:
        yaw: Turn of the body to its left in degrees. At 0 the body faces the viewer, so that its
            left is on the right of the image.
        pitch: Forward lean in degrees.
        roll: Lean to the body's left in degrees.

    Returns:
        A matrix (3, 3) with an axis (x, y, z) in each row. It turns positions in body axes into
        positions in the image: ``positions @ matrix``.
    """
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    rolled = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    pitched = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    yawed = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    return rolled @ pitched @ yawed


def sample_look(rng: Generator) -> Look:
    """Creates a random look of a person."""
    darkness = rng.random()
    return Look(
        skin=random_color(rng, (15, 27), (0.3 + 0.25 * darkness,) * 2, (1 - 0.55 * darkness,) * 2),
        hair=random_color(rng, (10, 45), (0.1, 0.75), (0.08, 0.75)),
        shirt=random_color(rng, (0, 360), (0.0, 0.35), (0.25, 0.95)),
        shorts=random_color(rng, (0, 360), (0.0, 0.3), (0.15, 0.6)),
        long_hair=rng.random() < 0.4,
        long_sleeves=rng.random() < 0.65,
        long_trousers=rng.random() < 0.7,
        build=rng.uniform(0.88, 1.22),
    )


def random_color(rng: Generator, hue: Range, saturation: Range, value: Range) -> Color:
    """Returns a random color within ranges of hue (degrees), saturation and value (0..1)."""
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    r, g, b = colorsys.hsv_to_rgb(h / 360 % 1, s, v)
    return 255 * b, 255 * g, 255 * r


def make_trunk(look: Look, torso: np.ndarray, pelvis: np.ndarray) -> list[Part]:
    """Creates the parts of shirt, shorts and neck.

    Args:
        look: Look of the person.
        torso: Body axes of the upper body, (3, 3).
        pelvis: Body axes of the hips, (3, 3).
    """
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


def make_head(rng: Generator, look: Look, torso: np.ndarray, head: np.ndarray) -> Region:
    """Creates head, hair and face.

    Args:
        rng: Random generator.
        look: Look of the person.
        torso: Body axes of the upper body, (3, 3).
        head: Body axes of the head, (3, 3).
    """
    size = 0.115  # large, so that face keypoints stay apart in small network inputs
    center = np.array([0, -0.035, 0.012]) @ torso + np.array([0, -0.8 * size, 0]) @ head

    def at(*position: float) -> np.ndarray:
        return center + size * np.array(position) @ head

    def piece(positions, radii, color, keypoints=(), lift=0.0) -> Part:
        points = [at(*position) for position in positions]
        return _part(points, size * np.array(radii), color, keypoints, size * lift)

    lips = (-0.28, 0.58, 0.85), (0, 0.66, 0.9), (0.28, 0.58, 0.85)
    nose = (0, 0.22, 1.08)
    joints = {NOSE: at(*nose)}
    parts = [
        piece([(0, -0.12, 0), (0, 0.42, 0.1)], [1, 0.72], look.skin),
        piece([(0, -0.35, -0.24), (0, 0, -0.5)], [0.82, 0.82], look.hair, lift=0.1),
        piece([(-0.4, -0.8, 0.02), (0.4, -0.8, 0.02)], 0.36, look.hair, lift=0.1),
        piece(lips, 0.075, (70, 60, 170)),
        piece([nose], 0.16, _mixed(look.skin, (60, 70, 235), 0.6), (NOSE,)),
    ]
    if look.long_hair:
        nape = np.array([0, 0.03, -0.075]) @ torso
        parts.append(_part([at(0, 0.1, -0.55), nape], size * np.array([0.85, 0.6]), look.hair))
    for side in (1, -1):
        tint = _side_color(rng, side)
        eye, ear = (left + (side < 0) for left in (EYE, EAR))
        eye_position, ear_position = (side * 0.46, -0.12, 0.84), (side * 1.1, 0.08, -0.05)
        joints[eye], joints[ear] = at(*eye_position), at(*ear_position)
        parts += [
            piece([(side * 0.75, -0.6, 0.42), (side * -0.05, -0.92, 0.35)], 0.23, look.hair),
            piece([eye_position], 0.22, WHITE, (eye,)),
            piece([eye_position], 0.13, _mixed(tint, BLACK, 0.25), (eye,), lift=0.001),
            piece([ear_position], 0.26, look.skin, (ear,), lift=0.2),
            piece([ear_position], 0.16, tint, (ear,), lift=0.201),
        ]
    return parts, joints


def make_arm(rng: Generator, look: Look, torso: np.ndarray, angles: Angles, side: int) -> Region:
    """Creates an arm.

    Args:
        rng: Random generator.
        look: Look of the person.
        torso: Body axes of the upper body, (3, 3).
        angles: Ranges of the angles, a row of :data:`ARMS`.
        side: 1 for the left arm, -1 for the right one.
    """
    flexion, abduction, bend, outward = (rng.uniform(*limits) for limits in angles)
    upper = _direction(flexion, abduction, side) @ torso
    lower = _direction(flexion + bend, abduction + outward, side) @ torso
    shoulder = np.array([side * 0.12, 0.025, 0]) @ torso
    elbow = shoulder + 0.165 * upper
    wrist = elbow + 0.15 * lower
    s, e, w = (left + (side < 0) for left in (SHOULDER, ELBOW, WRIST))
    cloth = _side_color(rng, side)
    band = _mixed(cloth, WHITE, 0.45)
    forearm = cloth if look.long_sleeves else look.skin
    r = np.array([0.044, 0.034, 0.027]) * look.build
    hand, cuff = (wrist + np.outer(along, lower) for along in ([0.025, 0.05], [-0.008, 0.008]))
    parts = [
        _part([shoulder, elbow], r[:2], cloth, (s, e), ARM_LIFT),
        _part([elbow, wrist], r[1:], forearm, (w,), ARM_LIFT),
        _part(hand, 0.92 * r[2], look.skin, (w,), ARM_LIFT),
        _part(shoulder, r[0], cloth, (s,), ARM_LIFT + 0.005),
        _part(elbow, 0.8 * r[1], band, (e,), ARM_BAND_LIFT),
        _part(cuff, 1.08 * r[2], band, (w,), ARM_BAND_LIFT),
    ]
    return parts, {s: shoulder, e: elbow, w: wrist}


def make_leg(
    rng: Generator, look: Look, hips: np.ndarray, pelvis: np.ndarray, angles: Angles, side: int
) -> Region:
    """Creates a leg.

    Args:
        rng: Random generator.
        look: Look of the person.
        hips: Position of the middle of the hips, (3,).
        pelvis: Body axes of the hips, (3, 3).
        angles: Ranges of the angles, a row of :data:`LEGS`.
        side: 1 for the left leg, -1 for the right one.
    """
    flexion, abduction, bend = (rng.uniform(*limits) for limits in angles)
    shin = flexion - bend
    hip = hips + np.array([side * 0.068, 0.02, 0]) @ pelvis
    knee = hip + 0.235 * _direction(flexion, abduction, side) @ pelvis
    ankle = knee + 0.22 * _direction(shin, 0.6 * abduction, side) @ pelvis
    toes = _direction(min(shin + 80, 85), 18, side) @ pelvis
    foot = ankle + np.array([0, 0.03, 0]) @ pelvis + np.outer([-0.02, 0.07], toes)
    h, k, a = (left + (side < 0) for left in (HIP, KNEE, ANKLE))
    cloth = _side_color(rng, side)
    band, shoe = _mixed(cloth, WHITE, 0.45), _mixed(cloth, BLACK, 0.35)
    calf = cloth if look.long_trousers else look.skin
    r = np.array([0.06, 0.044, 0.03]) * look.build
    parts = [
        _part([hip, knee], r[:2], cloth, (h, k), LEG_LIFT),
        _part([knee, ankle], r[1:], calf, (a,), LEG_LIFT),
        _part(foot, [0.03, 0.026], shoe, (a,), LEG_LIFT),
        _part(knee, 0.78 * r[1], band, (k,), LEG_BAND_LIFT),
        _part(ankle, 1.05 * r[2], band, (a,), LEG_BAND_LIFT),
    ]
    return parts, {h: hip, k: knee, a: ankle}


def _direction(flexion: float, abduction: float, side: int) -> np.ndarray:
    """Returns the unit vector (3,) along a limb, in body axes.

    Args:
        flexion: Angle in degrees by which the limb swings forward.
        abduction: Angle in degrees by which it swings outward.
        side: 1 for a left limb, -1 for a right one.
    """
    f, a = np.radians([flexion, abduction])
    return np.array([side * np.sin(a), np.cos(a) * np.cos(f), np.cos(a) * np.sin(f)])


def _part(points, radii, color: Color, keypoints: tuple[int, ...] = (), lift: float = 0) -> Part:
    """Creates a part of circles around positions.

    Args:
        points: Positions of the centers, (n, 3) or (3,).
        radii: Radii of the circles, (n,), or one radius for all.
        color: Color of the part.
        keypoints: Indices of the keypoints that are visible where the part is visible.
        lift: Number added to the mean z of the centers, which is the depth of the part.
    """
    points = np.atleast_2d(points)
    circles = np.column_stack([points[:, :2], np.broadcast_to(radii, len(points))])
    return Part(circles, points[:, 2].mean() + lift, color, keypoints)


def _side_color(rng: Generator, side: int) -> Color:
    """Returns a random strong color: a warm one for the left side (1), a cool one for the right."""
    return random_color(rng, (-15, 50) if side > 0 else (165, 255), (0.7, 1.0), (0.6, 0.95))


def _mixed(color: Color, other: Color, share: float) -> Color:
    """Mixes two colors; ``share`` is the share (0..1) of the second one."""
    return tuple(a + (b - a) * share for a, b in zip(color, other, strict=True))
