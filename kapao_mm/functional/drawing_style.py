# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines how predictions are drawn: what is shown (layers), and its names and colors (style)."""

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kapao_mm.structures import Metainfo

Color = tuple[int, int, int]  # RGB, or BGR for a BGR picture
DARK: Color = (24, 24, 24)
BRIGHT: Color = (255, 255, 255)

# RGB. MMPose's colors of the sides, and boxes that differ from them.
LEFT, RIGHT, MIDDLE = (0, 255, 0), (255, 128, 0), (51, 153, 255)
BOX_COLORS = (
    (126, 200, 255),
    (255, 94, 126),
    (255, 221, 64),
    (190, 130, 255),
    (64, 224, 190),
    (255, 255, 255),
)
TRACK_COLORS = tuple(
    tuple(round(255 * c) for c in colorsys.hsv_to_rgb(0.618034 * i % 1, 0.4 + 0.15 * (i % 4), 1))
    for i in range(64)
)
FACE_WORDS = {'eye', 'eyes', 'ear', 'ears', 'nose', 'mouth', 'lip', 'lips', 'face'}
HEAD_WORDS = {'head', 'neck', 'chin'}  # for keypoints without a face, such as those of CrowdPose


@dataclass(frozen=True)
class Layers:
    """Says what a picture of a prediction shows.

    Attributes:
        boxes: Boxes of the poses, in the color of their category or track.
        skeleton: Lines between keypoints.
        keypoints: Keypoints, filled if a keypoint object was fused, hollow if only the pose object
            regressed them.
        scores: Score of each pose, at its box.
        ids: Number of the track of each pose. With it, boxes have colors of tracks.
        names: Names of keypoints. Those without room are left out.
        pose_objects: Thin white skeletons as regressed by the pose objects, before fusion.
        keypoint_objects: Boxes of the keypoint objects.
        hide_faces: Mosaics in place of the faces of all poses. Faces of people without a pose stay
            visible.
        opacity: Transparency of keypoints and lines with low scores. The score is that of the fused
            keypoint object, or that of the pose.
        legend: An explanation of colors and symbols, in the lower left corner.
        stages: Three panels side by side instead of one picture: pose objects, keypoint objects and
            fused poses.
    """

    boxes: bool = True
    skeleton: bool = True
    keypoints: bool = True
    scores: bool = True
    ids: bool = True
    names: bool = False
    pose_objects: bool = False
    keypoint_objects: bool = False
    hide_faces: bool = False
    opacity: bool = True
    legend: bool = False
    stages: bool = False


class Style(NamedTuple):
    """Names, skeleton, colors and sizes of drawn predictions.

    Colors are in the order of the picture, RGB or BGR. Lists of colors are repeated if they are
    shorter than needed.

    Attributes:
        keypoint_names: Names by keypoint type. A type without a name is shown as its number.
        keypoint_colors: Colors of the keypoint types.
        skeleton_links: Pairs of keypoint types that are joined by a line.
        link_colors: Colors of the links.
        category_names: Names of the categories, written at the poses if there are several.
        side_colors: Colors of the left and the right side of the body, for the legend; empty if
            each side has several colors, or none.
        face_types: Keypoint types in a face, whose positions tell what ``hide_faces`` covers.
        box_colors: Colors of boxes by category.
        track_colors: Colors of boxes by the number of the track.
        line_width: Line width, px, in an image whose longer side is 400 px. It grows with the image
            and is limited by the size of the person.
        radius: Radius of keypoints in such an image, likewise.
    """

    keypoint_names: Mapping[int, str]
    keypoint_colors: Sequence[Color]
    skeleton_links: Sequence[Sequence[int]]
    link_colors: Sequence[Color]
    category_names: Sequence[str]
    side_colors: Sequence[Color] = ()
    face_types: Sequence[int] = ()
    box_colors: Sequence[Color] = BOX_COLORS
    track_colors: Sequence[Color] = TRACK_COLORS
    line_width: float = 1
    radius: float = 3

    @classmethod
    def from_metainfo(cls, metainfo: Metainfo, bgr: bool = False) -> 'Style':
        """Returns the style with the names, skeleton and colors of a metainfo.

        The metainfo's colors are kept if no left keypoint type has the color of a right one.
        Otherwise, in categories with left and right, left becomes green, right orange and the rest
        blue, as in most of MMPose's metainfos.

        Args:
            metainfo: Names, skeleton and RGB colors.
            bgr: Whether pictures are BGR.
        """
        names = metainfo.keypoint_names
        colors, links = _tuples(metainfo.keypoint_colors), _tuples(metainfo.link_colors)
        left, right = _sides(names, metainfo.flip_pairs)
        if {colors[i] for i in left} & {colors[i] for i in right}:
            categories = [set(c['keypoint_ids']) for c in metainfo.categories]
            for ids in (ids for ids in categories if ids & left):
                for i in ids:
                    colors[i] = LEFT if i in left else RIGHT if i in right else MIDDLE
                for link, (a, b) in enumerate(metainfo.skeleton_links):
                    if a in ids:
                        links[link] = colors[a] if colors[a] == colors[b] else MIDDLE
        sides = [{colors[i] for i in side} for side in (left, right)]
        clear = all(len(side) == 1 for side in sides)

        def ordered(rgb: Sequence[Color]) -> list[Color]:
            return [color[::-1] for color in rgb] if bgr else list(rgb)

        return cls(
            keypoint_names=dict(enumerate(names)),
            keypoint_colors=ordered(colors),
            skeleton_links=metainfo.skeleton_links,
            link_colors=ordered(links),
            category_names=[category['name'] for category in metainfo.categories],
            side_colors=ordered([*sides[0], *sides[1]]) if clear else (),
            face_types=_face_types(names, [c['keypoint_ids'] for c in metainfo.categories]),
            box_colors=ordered(BOX_COLORS),
            track_colors=ordered(TRACK_COLORS),
        )


def _tuples(colors: Sequence[Sequence[int]]) -> list[Color]:
    return [tuple(color) for color in colors]


def _sides(names: Sequence[str], pairs: Sequence[Sequence[int]]) -> tuple[set[int], set[int]]:
    """Returns the keypoint types of the left and of the right side of the body.

    The first letters in which the names of a pair differ, such as l and r in l_eye and r_eye, tell
    which is which; if they are others, the first of the pair is the left one.
    """
    left, right = set(), set()
    for a, b in pairs:
        letters = zip(names[a].lower(), names[b].lower(), strict=False)
        if next((pair for pair in letters if pair[0] != pair[1]), None) == ('r', 'l'):
            a, b = b, a
        left.add(a)
        right.add(b)
    return left, right


def _face_types(names: Sequence[str], categories: Sequence[Sequence[int]]) -> list[int]:
    """Returns the keypoint types with a word of a face in their names, such as L_EarBase.

    A category without such types has those of head and neck.
    """
    words = {
        i: {word.lower() for word in re.findall('[A-Z]?[a-z]+|[A-Z]+', name.rpartition('/')[2])}
        for i, name in enumerate(names)
    }
    found = []
    for ids in categories:
        face = [i for i in ids if words.get(i, set()) & FACE_WORDS]
        found += face or [i for i in ids if words.get(i, set()) & HEAD_WORDS]
    return found
