# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws figures onto a background and annotates what is visible of them.

A buffer of part ids is drawn together with the colors and tells which keypoints are visible.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from .figure import Color, Figure

OVERSAMPLING = 2  # subpixels for each pixel and axis while drawing
SUBPIXEL_BITS = 4  # fractional bits of polygon corners in OpenCV
LIGHT = np.array([-0.6, -0.8])  # direction towards the light, in image axes

_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def render(background: np.ndarray, figures: Sequence[Figure]) -> tuple[np.ndarray, list[dict]]:
    """Draws figures onto a background and annotates those that are visible.

    Args:
        background: Background, (h, w, 3) uint8 BGR.
        figures: Figures in px, sorted from far to near.

    Returns:
        The image, (h, w, 3) uint8 BGR, and for each visible figure an annotation in COCO's format
        without ``id`` and ``image_id``.
    """
    image, annotations = render_all(background, figures)
    return image, [annotation for annotation in annotations if annotation]


def render_all(
    background: np.ndarray, figures: Sequence[Figure]
) -> tuple[np.ndarray, list[dict | None]]:
    """Does what :func:`render` does, with an annotation of None for each hidden figure."""
    canvas = cv2.resize(background, None, fx=OVERSAMPLING, fy=OVERSAMPLING)
    ids = np.zeros(background.shape[:2], np.uint16)  # part id of each pixel; 0 is background
    owner, shown = [-1], [()]  # index of the figure, and keypoints, of each part id
    for number, figure in enumerate(figures):
        for part in figure.parts:
            paint(canvas, part.circles, part.color)
            _fill(ids, _corners(part.circles), len(owner))
            owner.append(number)
            shown.append(part.keypoints)
    image = cv2.resize(canvas, background.shape[1::-1], interpolation=cv2.INTER_AREA)
    owners = np.array(owner)[ids]
    masks = [owners == number for number in range(len(figures))]
    annotations = [
        _annotation(mask, figure.keypoints, np.where(mask, ids, 0), shown) if mask.any() else None
        for mask, figure in zip(masks, figures, strict=True)
    ]
    return image, annotations


def paint(canvas: np.ndarray, circles: np.ndarray, color: Color) -> None:
    """Draws the hull of circles (n, 3) px, shaded like a cylinder, on an oversampled canvas."""
    shades = int(np.clip(circles[:, 2].max(), 2, 7))  # at most one for each pixel of the radius
    sizes = np.linspace(1, 0.16, shades)[:, None]
    lit = np.tile(circles, (shades, 1, 1))  # (shades, n, 3)
    lit[..., :2] += LIGHT * (lit[..., 2:] * (1 - sizes[..., None]) / 2)
    lit[..., 2] *= sizes
    colors = np.minimum(color * (0.58 + 0.47 * np.sqrt(1 - sizes**2)), 255)  # (shades, 3)
    for corners, shade in zip(_corners(lit, OVERSAMPLING), colors.tolist(), strict=True):
        _fill(canvas, corners, shade)


def silhouette(figure: Figure, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask (h, w) bool of a figure that is alone in an image of ``size`` (w, h) px."""
    mask = np.zeros(size[::-1], np.uint8)
    for part in figure.parts:
        _fill(mask, _corners(part.circles), 1)
    return mask.astype(bool)


def _corners(circles: np.ndarray, scale: int = 1) -> np.ndarray:
    """Returns polygon corners around circles (..., n, 3) px, with ``scale`` subpixels per pixel.

    The corners are (..., n * 24, 2) int32, in OpenCV's fixed-point format.
    """
    centers, radii = np.split(circles[..., None, :] * float(scale), [2], axis=-1)
    radii = np.maximum(radii - 0.4, 0)  # OpenCV fills about 0.4 px beyond the corners
    points = centers + (scale - 1) / 2 + radii * _CIRCLE  # (..., n, 24, 2)
    points = np.rint(points * 2**SUBPIXEL_BITS).astype(np.int32)
    return points.reshape(*circles.shape[:-2], -1, 2)


def _fill(canvas: np.ndarray, corners: np.ndarray, value: float | Sequence[float]) -> None:
    """Fills the convex hull of corners (m, 2) from :func:`_corners`."""
    cv2.fillConvexPoly(canvas, cv2.convexHull(corners), value, cv2.LINE_8, SUBPIXEL_BITS)


def _annotation(
    mask: np.ndarray, keypoints: np.ndarray, ids: np.ndarray, shown: list[tuple[int, ...]]
) -> dict:
    """Creates the annotation of a person.

    Args:
        mask: Visible pixels of the person, (h, w) bool.
        keypoints: Keypoints, (17, 2) px.
        ids: Part ids of the person's pixels, 0 elsewhere, (h, w).
        shown: Keypoints that are visible where a part is visible, by part id.
    """
    height, width = mask.shape
    labels = []
    for index, (x, y) in enumerate(keypoints.round(2).tolist()):
        if 0 <= x <= width - 1 and 0 <= y <= height - 1:
            labels += [x, y, 2 if index in shown[ids[round(y), round(x)]] else 1]
        else:
            labels += [0, 0, 0]
    mask = mask.astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_TC89_L1)
    return dict(
        category_id=1,
        bbox=list(cv2.boundingRect(mask)),
        area=int(mask.sum()),
        iscrowd=0,
        num_keypoints=sum(v > 0 for v in labels[2::3]),
        keypoints=labels,
        segmentation=[outline.ravel().tolist() for outline in outlines if len(outline) > 2],
    )
