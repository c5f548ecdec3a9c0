# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws poses and keypoint objects with OpenCV, in place on one copy of the image.

Pictures are (h, w, 3) uint8, RGB or BGR: colors are drawn as the style has them.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from kapao_mm.structures import KeypointObjects, Prediction

from .drawing_figures import FARTHEST, draw_figures, draw_plain_skeletons
from .drawing_style import DARK, Color, Layers, Style
from .drawing_text import Labels, draw_legend, letter_size, reference_side, tag
from .hide_faces import hide_faces

REFERENCE_SIDE = 400  # longer image side, px, that line widths and radii refer to
RADIUS_OF_PERSON = 0.016  # largest keypoint radius, as a fraction of the box's longer side
WIDTH_OF_PERSON = 0.009  # largest line width, likewise
LETTERS_OF_PERSON = 0.12  # largest letters, likewise
CROWD = 15  # people; with more of them lines and keypoints become smaller
MIN_WIDTH, MIN_RADIUS = 1.0, 1.5  # px
BOX_WIDTH = 0.6  # width of boxes, as a fraction of the width of the skeleton's lines
DEFAULT_LAYERS = Layers()


def draw_prediction(
    image: np.ndarray, prediction: Prediction, style: Style, layers: Layers = DEFAULT_LAYERS
) -> np.ndarray:
    """Draws the poses of an image, and more on request, the first pose on top.

    Args:
        image: Image, (h, w, 3) uint8; not changed.
        prediction: Poses and keypoint objects of the image.
        style: Names, colors and sizes.
        layers: What to draw.

    Returns:
        A picture as large as the image, or the panels of :func:`draw_stages` side by side.

    Raises:
        InputError: If faces should be hidden, but no keypoint type is in a face.

    Examples:
        >>> style = Style.from_metainfo(metainfo, bgr=True)
        >>> picture = draw_prediction(image, prediction, style, Layers(legend=True))
    """
    if layers.stages:
        return side_by_side(draw_stages(image, prediction, style, layers))
    canvas = image.copy()
    if layers.hide_faces:
        hide_faces(canvas, prediction, style.face_types)
    people = range(len(prediction))
    sizes = np.max(prediction.bboxes[:, 2:] - prediction.bboxes[:, :2], axis=1)
    widths, radii = _widths_and_radii(canvas, sizes, style)
    colors = [_box_color(prediction, i, style, layers) for i in people]
    if layers.pose_objects:
        draw_plain_skeletons(canvas, prediction, style, widths / 2)
    if layers.keypoint_objects and prediction.keypoint_objects is not None:
        _draw_keypoint_objects(canvas, prediction.keypoint_objects, style, BOX_WIDTH)
    for i in reversed(people) if layers.boxes else ():
        _draw_box(canvas, prediction.bboxes[i], colors[i], BOX_WIDTH * widths[i])
    draw_figures(canvas, prediction, style, layers, widths, radii)
    _write_labels(canvas, prediction, sizes, radii, colors, style, layers)
    if layers.legend:
        draw_legend(canvas, _legend(prediction, style, layers))
    return canvas


def draw_stages(
    image: np.ndarray, prediction: Prediction, style: Style, layers: Layers = DEFAULT_LAYERS
) -> dict[str, np.ndarray]:
    """Draws pose objects, keypoint objects and fused poses, as in the paper's figures.

    Args:
        image: Image, (h, w, 3) uint8; not changed.
        prediction: Poses and keypoint objects of the image. The panel of keypoint objects is left
            out if they are None.
        style: Names, colors and sizes.
        layers: What to draw in the panels of poses.

    Returns:
        The panels by title.
    """
    if layers.hide_faces:
        image = image.copy()
        hide_faces(image, prediction, style.face_types)
    layers = replace(layers, stages=False, hide_faces=False)
    plain = replace(layers, names=False, legend=False)
    panels = {
        f'pose objects: {len(prediction)}': draw_prediction(
            image, prediction.before_fusion(), style, plain
        )
    }
    if prediction.keypoint_objects is not None:
        title = f'keypoint objects: {len(prediction.keypoint_objects.bboxes)}'
        panels[title] = draw_keypoint_objects(image, prediction.keypoint_objects, style)
    title = f'fused poses: {int(prediction.keypoints_fused.sum())} keypoints fused'
    panels[title] = draw_prediction(image, prediction, style, layers)
    return panels


def draw_keypoint_objects(image: np.ndarray, objects: KeypointObjects, style: Style) -> np.ndarray:
    """Draws the boxes of keypoint objects in the color of their type, with its name if it has room.

    Returns:
        A picture as large as the image.
    """
    canvas = image.copy()
    _draw_keypoint_objects(canvas, objects, style)
    labels = Labels(canvas, np.zeros((0, 2)))
    size = round(0.75 * letter_size(canvas))
    for i in np.argsort(-objects.scores):
        name = _name(style, objects.labels[i])
        color = _color(style.keypoint_colors, objects.labels[i])
        if name:
            labels.write([name], size, DARK, objects.bboxes[i], color)
    return canvas


def side_by_side(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Joins panels of the same size, each with its title above.

    A single panel is returned unchanged, without a title.
    """
    first = next(iter(panels.values()))
    if len(panels) == 1:
        return first
    width = first.shape[1]
    size = round(1.3 * letter_size(first))
    titles = [tag(title, size, DARK) for title in panels]
    shrink = min(1, width / max(title.shape[1] for title in titles))
    height = max(1, round(shrink * titles[0].shape[0]))
    titled = []
    for title, panel in zip(titles, panels.values(), strict=True):
        fitting = max(1, min(width, round(shrink * title.shape[1])))
        strip = np.full((height, width, 3), DARK, np.uint8)
        strip[:, :fitting] = cv2.resize(title, (fitting, height), interpolation=cv2.INTER_AREA)
        titled.append(np.concatenate([strip, panel]))
    return np.concatenate(titled, axis=1)


def _draw_keypoint_objects(
    canvas: np.ndarray, objects: KeypointObjects, style: Style, width: float = 1
) -> None:
    """Draws boxes of a width, as a fraction of the width of lines."""
    width *= style.line_width * _scale(canvas)
    for i in np.argsort(objects.scores):
        color = _color(style.keypoint_colors, objects.labels[i])
        _draw_box(canvas, objects.bboxes[i], color, width)


def _draw_box(canvas: np.ndarray, box: np.ndarray, color: Color, width: float) -> None:
    x1, y1, x2, y2 = np.rint(np.clip(box, -FARTHEST, FARTHEST)).astype(int).tolist()
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, max(1, round(width)))


def _write_labels(
    canvas: np.ndarray,
    prediction: Prediction,
    sizes: np.ndarray,
    radii: np.ndarray,
    colors: Sequence[Color],
    style: Style,
    layers: Layers,
) -> None:
    """Writes category, track and score of each pose at its box, and names of keypoints."""
    labels = Labels(canvas, prediction.keypoints[prediction.keypoints_visible])
    letters = letter_size(canvas)
    several = len(style.category_names) > 1
    for i, box in enumerate(prediction.bboxes):
        tracked = layers.ids and prediction.track_ids is not None and prediction.track_ids[i] > 0
        name = f'#{prediction.track_ids[i]}' if tracked else ''
        category = style.category_names[prediction.labels[i]] if several and layers.boxes else ''
        score = f'{prediction.bbox_scores[i]:.2f}' if layers.scores and layers.boxes else ''
        texts = [' '.join(filter(None, words)) for words in ((category, name, score), (name,))]
        if texts[0]:
            size = round(min(letters, LETTERS_OF_PERSON * sizes[i]))
            labels.write([text for text in texts if text], size, colors[i], box)
    for i, keypoints in enumerate(prediction.keypoints if layers.names else ()):
        size = round(0.8 * min(letters, LETTERS_OF_PERSON * sizes[i]))
        for k in np.flatnonzero(prediction.keypoints_visible[i]).tolist():
            box = np.concatenate([keypoints[k] - radii[i] - 1, keypoints[k] + radii[i] + 1])
            labels.write([_name(style, k)], size, DARK, box, _color(style.keypoint_colors, k))


def _legend(prediction: Prediction, style: Style, layers: Layers) -> list[tuple[Color, bool, str]]:
    """Returns color, whether the symbol is filled, and text of each line of the legend."""
    gray = (160, 160, 160)
    lines = [(gray, True, 'from a keypoint object'), (gray, False, 'from the pose object')]
    if style.side_colors:
        sides = ('left side of the body', 'right side of the body')
        lines = [(c, True, text) for c, text in zip(style.side_colors, sides, strict=True)] + lines
    if layers.boxes and len(style.category_names) > 1 and prediction.track_ids is None:
        names = enumerate(style.category_names)
        lines += [(_color(style.box_colors, i), True, f'box: {name}') for i, name in names]
    return lines


def _box_color(prediction: Prediction, i: int, style: Style, layers: Layers) -> Color:
    """Returns the color of the track of a pose, or of its category."""
    if layers.ids and prediction.track_ids is not None and prediction.track_ids[i] > 0:
        return _color(style.track_colors, int(prediction.track_ids[i]))
    return _color(style.box_colors, prediction.labels[i])


def _widths_and_radii(
    canvas: np.ndarray, sizes: np.ndarray, style: Style
) -> tuple[np.ndarray, np.ndarray]:
    """Returns line width and keypoint radius for each pose of a size, px."""
    scale, thinner = _scale(canvas), min(1, CROWD / max(1, len(sizes))) ** 0.5
    widths = thinner * np.minimum(style.line_width * scale, WIDTH_OF_PERSON * sizes)
    radii = thinner * np.minimum(style.radius * scale, RADIUS_OF_PERSON * sizes)
    return np.maximum(widths, MIN_WIDTH), np.maximum(radii, MIN_RADIUS)


def _scale(image: np.ndarray) -> float:
    """Returns the factor of line widths and radii for an image."""
    return reference_side(image) / REFERENCE_SIDE


def _name(style: Style, keypoint_type: int) -> str:
    return style.keypoint_names.get(int(keypoint_type), str(keypoint_type))


def _color(colors: Sequence[Color], index: int) -> Color:
    return colors[index % len(colors)]
