# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Draws skeletons and keypoints as smooth polygons with subpixel positions and widths.

OpenCV draws a polygon much faster than a smooth thick line, and its small circles are diamonds.
"""

import cv2
import numpy as np

from kapao_mm.structures import Prediction

from .drawing_style import BRIGHT, DARK, Layers, Style

EDGE = 1  # px of dark edge around lines and keypoints
EDGED = 1.5  # px; thinner lines have no edge, which would cover more than the line
HOLLOW = 0.6  # radius of the white center of a hollow keypoint, as a fraction of its radius
OPACITY = ((0.0, 0.8), (0.35, 1.0))  # scores, and how opaque they are
OPAQUE = 2**7  # times 255 it fits into 16 bits
CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 16, endpoint=False)) for f in (np.cos, np.sin)], 1)
SMOOTH = 0.3  # px by which OpenCV enlarges a polygon with smooth edges
SHIFT = 4  # OpenCV takes coordinates in 1/16 px
FARTHEST = 1e6  # px; OpenCV takes 32-bit coordinates


def draw_figures(
    canvas: np.ndarray,
    prediction: Prediction,
    style: Style,
    layers: Layers,
    widths: np.ndarray,
    radii: np.ndarray,
) -> None:
    """Draws the skeletons and keypoints of all poses, the first pose on top.

    Each is drawn opaque, and then mixed with what was there before by its scores.

    Args:
        canvas: Picture, (h, w, 3) uint8, which is changed.
        prediction: Poses, in px of the picture.
        style: Skeleton and colors.
        layers: ``skeleton``, ``keypoints`` and ``opacity`` are used.
        widths: Widths of the lines of each pose, (P,) px.
        radii: Radii of the keypoints of each pose, (P,) px.
    """
    if not len(prediction):
        return
    keypoints = np.clip(prediction.keypoints, -FARTHEST, FARTHEST)
    visible, fused = prediction.keypoints_visible, prediction.keypoints_fused
    scores = np.where(fused, prediction.keypoint_scores, prediction.bbox_scores[:, None])
    opacity = np.rint(OPAQUE * np.interp(scores, *OPACITY)).astype(int)  # (P, K)
    a, b = np.array(style.skeleton_links, int).reshape(-1, 2).T
    linked = visible[:, a] & visible[:, b] & layers.skeleton  # (P, L)
    link_opacity = np.minimum(opacity[:, a], opacity[:, b])
    around_bar, bar_edge, bar = (
        _bars(keypoints[:, a], keypoints[:, b], widths + 2 * more) for more in (2 * EDGE, EDGE, 0)
    )
    around_disk, disk_edge, disk = (_disks(keypoints, radii + e) for e in (2 * EDGE, EDGE, 0))
    center = _disks(keypoints, HOLLOW * radii)
    link_colors = _repeated(style.link_colors, len(a))
    colors = _repeated(style.keypoint_colors, visible.shape[1])

    for i in reversed(range(len(prediction))):
        shown, links = np.flatnonzero(visible[i]), np.flatnonzero(linked[i]).tolist()
        corner, part = _part(canvas, keypoints[i, shown], radii[i] + widths[i] + 2 * EDGE)
        if not part.size:
            continue
        disks = shown.tolist() if layers.keypoints else []
        before = part.copy()
        if widths[i] >= EDGED:
            for k in links:
                cv2.fillConvexPoly(canvas, bar_edge[i, k], DARK, cv2.LINE_AA, SHIFT)
        for k in links:
            cv2.fillConvexPoly(canvas, bar[i, k], link_colors[k], cv2.LINE_AA, SHIFT)
        for k in disks:
            cv2.fillConvexPoly(canvas, disk_edge[i, k], DARK, cv2.LINE_AA, SHIFT)
            cv2.fillConvexPoly(canvas, disk[i, k], colors[k], cv2.LINE_AA, SHIFT)
            if not fused[i, k]:
                cv2.fillConvexPoly(canvas, center[i, k], BRIGHT, cv2.LINE_AA, SHIFT)
        if layers.opacity and opacity[i, shown].min() < OPAQUE:
            shares = np.full_like(part, OPAQUE)
            offset = np.array(corner, np.int32) * 2**SHIFT
            for around, share in (
                *zip(around_bar[i, links] - offset, link_opacity[i, links].tolist(), strict=True),
                *zip(around_disk[i, disks] - offset, opacity[i, disks].tolist(), strict=True),
            ):
                cv2.fillConvexPoly(shares, around, (share, share, share), cv2.LINE_8, SHIFT)
            _mix(part, before, shares)


def _mix(part: np.ndarray, before: np.ndarray, shares: np.ndarray) -> None:
    """Keeps only a share of the change of each pixel, in units of 1 / OPAQUE."""
    change = part.astype(np.int16)
    change -= before
    change *= shares
    change >>= 7  # / OPAQUE
    change += before
    part[:] = change


def draw_plain_skeletons(
    canvas: np.ndarray, prediction: Prediction, style: Style, widths: np.ndarray
) -> None:
    """Draws the skeletons that the pose objects regressed, in white.

    Args:
        canvas: Picture, (h, w, 3) uint8, which is changed.
        prediction: Poses, in px of the picture.
        style: Skeleton.
        widths: Widths of the lines of each pose, (P,) px.
    """
    if not len(prediction):
        return
    keypoints = np.clip(prediction.pose_keypoints, -FARTHEST, FARTHEST)
    a, b = np.array(style.skeleton_links, int).reshape(-1, 2).T
    linked = prediction.keypoints_visible[:, a] & prediction.keypoints_visible[:, b]
    for bar in _bars(keypoints[:, a], keypoints[:, b], widths)[linked]:
        cv2.fillConvexPoly(canvas, bar, BRIGHT, cv2.LINE_AA, SHIFT)


def _bars(starts: np.ndarray, ends: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Returns lines (P, L, 2) to (P, L, 2) of a width for each pose as polygons (P, L, 4, 2)."""
    along = ends - starts
    length = np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    across = along[..., ::-1] * (-1, 1) / length * (widths / 2 - SMOOTH)[:, None, None]
    return _fixed(np.stack([starts + across, ends + across, ends - across, starts - across], 2))


def _disks(centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Returns disks around centers (P, K, 2) of a radius for each pose, as (P, K, 16, 2)."""
    return _fixed(centers[:, :, None] + (radii - SMOOTH)[:, None, None, None] * CIRCLE)


def _fixed(polygons: np.ndarray) -> np.ndarray:
    return np.rint(polygons * 2**SHIFT).astype(np.int32)


def _part(
    canvas: np.ndarray, points: np.ndarray, margin: float
) -> tuple[tuple[int, int], np.ndarray]:
    """Returns the part of a picture around points, after its corner (x, y)."""
    if not len(points):
        return (0, 0), canvas[:0]
    size = canvas.shape[1::-1]
    x1, y1 = np.clip(points.min(0) - margin, 0, size).astype(int).tolist()
    x2, y2 = np.clip(points.max(0) + margin + 1, 0, size).astype(int).tolist()
    return (x1, y1), canvas[y1:y2, x1:x2]


def _repeated(colors: list, count: int) -> list:
    return [colors[i % len(colors)] for i in range(count)]
