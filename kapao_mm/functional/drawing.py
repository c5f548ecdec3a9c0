# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws poses and keypoint objects with OpenCV; pictures are RGB (H, W, 3) uint8.

No function changes the image that it is given.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from kapao_mm.structures import KeypointObjects, Metainfo, Prediction

Color = tuple[int, int, int]  # RGB

WHITE: Color = (255, 255, 255)
MAX_STRETCH = 10  # largest ratio of an image's sides at which the longer side still sets the scale
REFERENCE_SIDE = 400  # longer image side, px, that line widths, radii and text sizes refer to
RADIUS_OF_PERSON = 0.02  # largest keypoint radius, as a fraction of the box's longer side
FONT = cv2.FONT_HERSHEY_SIMPLEX
LABEL_SIZE = 0.22  # OpenCV's font scale
TITLE_SIZE = 0.4


class Style(NamedTuple):
    """Drawing style.

    Colors are RGB. Lists of colors are repeated if they are shorter than needed.

    Attributes:
        keypoint_names: Names by keypoint type. A type without a name is shown as its number.
        keypoint_colors: Colors of the keypoint types.
        skeleton_links: Pairs of keypoint types that are joined by a line.
        link_colors: Colors of the links.
        category_names: Names of the categories, written at the poses if there are several.
        box_color: Color of the boxes of poses.
        line_width: Line width in an image whose longer side is :data:`REFERENCE_SIDE`, px.
        radius: Radius of keypoints in such an image, px.
    """

    keypoint_names: Mapping[int, str]
    keypoint_colors: Sequence[Color]
    skeleton_links: Sequence[Sequence[int]]
    link_colors: Sequence[Color]
    category_names: Sequence[str]
    box_color: Color = (0, 255, 0)
    line_width: float = 1
    radius: float = 3

    @classmethod
    def from_metainfo(cls, metainfo: Metainfo) -> 'Style':
        """Returns the style with the names, skeleton and colors of a metainfo."""
        return cls(
            keypoint_names=dict(enumerate(metainfo.keypoint_names)),
            keypoint_colors=[tuple(color) for color in metainfo.keypoint_colors],
            skeleton_links=metainfo.skeleton_links,
            link_colors=[tuple(color) for color in metainfo.link_colors],
            category_names=[category['name'] for category in metainfo.categories],
        )


def draw_prediction(
    image: np.ndarray, prediction: Prediction, style: Style, draw_objects: bool = False
) -> np.ndarray:
    """Draws the fused poses of an image, or all panels of :func:`draw_stages`.

    Args:
        image: Image, not changed.
        prediction: Poses and keypoint objects of the image.
        style: Drawing style.
        draw_objects: Whether to draw all panels side by side.

    Returns:
        The picture.
    """
    if not draw_objects:
        return draw_poses(image, prediction, style)
    return side_by_side(draw_stages(image, prediction, style))


def draw_stages(
    image: np.ndarray,
    prediction: Prediction,
    style: Style,
    draw_boxes: bool = True,
    number_keypoints: bool = False,
) -> dict[str, np.ndarray]:
    """Draws pose objects, keypoint objects and fused poses, as in the paper's figures.

    Args:
        image: Image, not changed.
        prediction: Poses and keypoint objects of the image. The panel of keypoint objects is left
            out if they are None.
        style: Drawing style.
        draw_boxes: Whether to draw the boxes of the fused poses, see :func:`draw_poses`.
        number_keypoints: Whether to number the keypoints of the fused poses, see
            :func:`draw_poses`.

    Returns:
        The panels by title.
    """
    pose_objects = draw_poses(image, prediction.before_fusion(), style)
    panels = {f'pose objects: {len(prediction)}': pose_objects}
    if prediction.keypoint_objects is not None:
        title = f'keypoint objects: {len(prediction.keypoint_objects.bboxes)}'
        panels[title] = draw_keypoint_objects(image, prediction.keypoint_objects, style)
    title = f'fused poses: {int(prediction.keypoints_fused.sum())} keypoints fused'
    panels[title] = draw_poses(image, prediction, style, draw_boxes, number_keypoints)
    return panels


def draw_poses(
    image: np.ndarray,
    prediction: Prediction,
    style: Style,
    draw_boxes: bool = True,
    number_keypoints: bool = False,
    draw_scores: bool = True,
) -> np.ndarray:
    """Draws boxes, skeletons and keypoints, the first pose on top.

    Fused keypoints are filled, others are hollow.

    Args:
        image: Image, not changed.
        prediction: Poses of the image.
        style: Drawing style.
        draw_boxes: Whether to draw boxes, with category and score.
        number_keypoints: Whether to write the number of its type at each keypoint.
        draw_scores: Whether to write the score of the pose at its box.

    Returns:
        A picture as large as the image.
    """
    canvas = image.copy()
    scale = _scale(image)
    width = max(1, round(style.line_width * scale))
    several = len(style.category_names) > 1
    all_fused = prediction.keypoints_fused  # (P, K)
    for i in reversed(range(len(prediction))):
        box, keypoints = prediction.bboxes[i], prediction.keypoints[i]
        visible, fused = prediction.keypoints_visible[i], all_fused[i]
        radius = min(style.radius * scale, RADIUS_OF_PERSON * max(box[2:] - box[:2]))
        radius = max(width + 1, round(radius))
        if draw_boxes:
            _draw_box(canvas, box, style.box_color, max(1, width // 2))
        _draw_links(canvas, keypoints, visible, style, width)
        _draw_keypoints(canvas, keypoints, visible, fused, style, radius)
        if number_keypoints:
            for k in np.flatnonzero(visible):
                _write(canvas, str(k), keypoints[k] + radius, LABEL_SIZE * scale, WHITE)
        category = style.category_names[prediction.labels[i]] if several else ''
        score = f'{prediction.bbox_scores[i]:.2f}' if draw_scores else ''
        if draw_boxes and (text := f'{category} {score}'.strip()):
            _write(canvas, text, box[:2], LABEL_SIZE * scale, style.box_color)
    return canvas


def draw_keypoint_objects(image: np.ndarray, objects: KeypointObjects, style: Style) -> np.ndarray:
    """Draws the boxes of keypoint objects in the color of their type, with the type's name.

    Returns:
        A picture as large as the image.
    """
    canvas = image.copy()
    scale = _scale(image)
    order = np.argsort(objects.scores)
    boxes, types = objects.bboxes[order], objects.labels[order].tolist()
    colors = [_color(style.keypoint_colors, label) for label in types]
    for box, color in zip(boxes, colors, strict=True):
        _draw_box(canvas, box, color, max(1, round(style.line_width * scale)))
    for box, label, color in zip(boxes, types, colors, strict=True):
        name = style.keypoint_names.get(label, str(label))
        _write(canvas, name, box[:2], LABEL_SIZE * scale, color)
    return canvas


def side_by_side(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Joins panels of the same size, each with its title above.

    A single panel is returned unchanged, without a title.
    """
    first = next(iter(panels.values()))
    if len(panels) == 1:
        return first
    size = TITLE_SIZE * _scale(first)
    widest = max(_text_size(title, size)[0] for title in panels)
    size *= min(1.0, 0.95 * first.shape[1] / widest)
    line = max(1, _text_size(' '.join(panels), size)[1])  # OpenCV cannot write into 0 rows
    titled = []
    for title, panel in panels.items():
        strip = np.zeros((2 * line, panel.shape[1], 3), np.uint8)
        _write(strip, title, np.array([line // 2, line * 3 // 2]), size, WHITE)
        titled.append(np.concatenate([strip, panel]))
    return np.concatenate(titled, axis=1)


def _draw_links(
    canvas: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, style: Style, width: int
) -> None:
    for link, (a, b) in enumerate(style.skeleton_links):
        if visible[a] and visible[b]:
            color = _color(style.link_colors, link)
            cv2.line(canvas, _px(keypoints[a]), _px(keypoints[b]), color, width, cv2.LINE_AA)


def _draw_keypoints(
    canvas: np.ndarray,
    keypoints: np.ndarray,
    visible: np.ndarray,
    fused: np.ndarray,
    style: Style,
    radius: int,
) -> None:
    for k in np.flatnonzero(visible):
        point, color = _px(keypoints[k]), _color(style.keypoint_colors, k)
        cv2.circle(canvas, point, radius, color, cv2.FILLED, cv2.LINE_AA)
        if not fused[k]:
            cv2.circle(canvas, point, round(0.65 * radius), WHITE, cv2.FILLED, cv2.LINE_AA)


def _draw_box(canvas: np.ndarray, box: np.ndarray, color: Color, width: int) -> None:
    cv2.rectangle(canvas, _px(box[:2]), _px(box[2:]), color, width)


def _write(canvas: np.ndarray, text: str, corner: np.ndarray, size: float, color: Color) -> None:
    """Writes text on a darkened ground.

    ``corner`` is the lower left corner of the text. The text is moved into the image if needed.
    """
    width, height = _text_size(text, size)
    room = np.array([canvas.shape[1] - width, canvas.shape[0]])
    x, y = _px(np.maximum(np.minimum(corner, room), (0, height)))
    canvas[y - height : y, x : x + width] //= 3
    cv2.putText(canvas, text, (x, y - height // 4), FONT, size, color, _weight(size), cv2.LINE_AA)


def _text_size(text: str, size: float) -> tuple[int, int]:
    """Returns (width, height) of a line of text, including descenders, px."""
    (width, height), baseline = cv2.getTextSize(text, FONT, size, _weight(size))
    return width, height + baseline


def _weight(size: float) -> int:
    return max(1, round(2 * size))


def _scale(image: np.ndarray) -> float:
    """Returns the factor of all line widths, radii and text sizes for an image.

    It is limited on long strips, whose titles would otherwise need thousands of times their area.
    """
    short, long = sorted(image.shape[:2])
    return min(long, MAX_STRETCH * short) / REFERENCE_SIDE


def _px(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point).astype(int).tolist()
    return x, y


def _color(colors: Sequence[Color], index: int) -> Color:
    return colors[index % len(colors)]
