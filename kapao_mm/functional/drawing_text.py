# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes labels and a legend into a picture, where they cover little of it."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing_style import BRIGHT, DARK, Color

MIN_SIZE = 9  # of letters, px; smaller ones are illegible
CELL = 4  # px; labels are placed on a grid of such cells
LABEL = 10**6  # marks cells with a label, which no other may cover
MAX_STRETCH = 10  # largest ratio of an image's sides at which the longer side sets all sizes
SYSTEM_FONTS = ('NotoSansCJK-Regular.ttc', 'msyh.ttc', 'Arial Unicode.ttf', 'DejaVuSans.ttf')
LARGEST_LEGEND = 0.6  # as a fraction of the picture's sides


class Labels:
    """Writes labels into a picture so that they cover no other label and few keypoints.

    Args:
        canvas: Picture, (h, w, 3) uint8, which is changed.
        avoid: Points that labels should not cover, (n, 2) px.
    """

    def __init__(self, canvas: np.ndarray, avoid: np.ndarray) -> None:
        self._canvas = canvas
        height, width = canvas.shape[:2]
        self._taken = np.zeros((height // CELL + 1, width // CELL + 1), np.int32)
        inside = ((avoid >= 0) & (avoid < (width, height))).all(-1)
        columns, rows = (avoid[inside] // CELL).astype(int).T
        np.add.at(self._taken, (rows, columns), 1)

    def write(
        self,
        texts: Sequence[str],
        size: int,
        color: Color,
        box: np.ndarray,
        letters: Color | None = None,
    ) -> str:
        """Writes the first of the texts that has room at a box, smaller if need be.

        Args:
            texts: The text, and shorter ones in case that it has no room.
            size: Size of the letters, px.
            color: Color of the ground.
            box: Box that the text belongs to, (4,) xyxy px.
            letters: Color of the letters, see :func:`tag`.

        Returns:
            The text that was written, empty if none has room.
        """
        for scale in (1, 0.75):
            for text in texts:
                picture = tag(text, max(MIN_SIZE, round(scale * size)), color, letters)
                if self._paste(picture, box):
                    return text
        return ''

    def _paste(self, picture: np.ndarray, box: np.ndarray) -> bool:
        """Copies a label to the place at a box where it covers least; returns whether it did."""
        height, width = picture.shape[:2]
        room = self._canvas.shape[1] - width, self._canvas.shape[0] - height
        if min(room) < 0:
            return False
        x1, y1, x2, y2 = np.clip(box, -width, max(self._canvas.shape)).round().astype(int).tolist()
        best = LABEL
        for x, y in (
            (x1, y1 - height),
            (x2 - width, y1 - height),
            (x1, y1),
            (x1, y2),
            (x2, y1),
            (x1 - width, y1),
            (x2 - width, y2),
        ):
            x, y = min(max(x, 0), room[0]), min(max(y, 0), room[1])
            rows = slice(y // CELL, (y + height - 1) // CELL + 1)
            columns = slice(x // CELL, (x + width - 1) // CELL + 1)
            cost = int(self._taken[rows, columns].sum())
            if cost < best:
                best, place, cells = cost, (x, y), (rows, columns)
            if not best:
                break
        if best >= LABEL:
            return False
        x, y = place
        self._canvas[y : y + height, x : x + width] = picture
        self._taken[cells] += LABEL
        return True


@lru_cache(maxsize=4096)
def tag(text: str, size: int, color: Color, letters: Color | None = None) -> np.ndarray:
    """Returns a text on a ground of a color. It is shared, so do not change it.

    Args:
        text: A line of text.
        size: Size of the letters, px.
        color: Color of the ground.
        letters: Color of the letters; the default is dark or white, whichever is legible.

    Returns:
        The label, (h, w, 3) uint8, about 1.3 times as high as the letters.
    """
    font = _font(size, text.isascii())
    pad = max(1, size // 5)
    width, height = round(font.getlength(text)) + 2 * pad, round(1.3 * size)
    mask = Image.new('L', (width, height))
    ImageDraw.Draw(mask).text((pad, height / 2), text, 255, font, anchor='lm')
    # The order of RGB or BGR is unknown here, and matters little.
    letters = letters or (DARK if np.dot(color, (0.25, 0.5, 0.25)) > 110 else BRIGHT)
    share = np.asarray(mask, np.float32)[..., None] / 255
    return np.rint(np.float32(color) * (1 - share) + np.float32(letters) * share).astype(np.uint8)


def draw_legend(canvas: np.ndarray, entries: Sequence[tuple[Color, bool, str]]) -> None:
    """Draws a legend into the lower left corner of a picture, where it stays in a video.

    Args:
        canvas: Picture, which is changed.
        entries: Color, whether the symbol is filled, and text of each line.
    """
    size = letter_size(canvas)
    rows = [tag(text, size, DARK) for _, _, text in entries]
    line = rows[0].shape[0] + size // 3
    height, width = line * len(rows) + size // 3, max(r.shape[1] for r in rows) + 2 * size
    legend = np.full((height, width, 3), DARK, np.uint8)
    for index, ((color, filled, _), row) in enumerate(zip(entries, rows, strict=True)):
        top = line * index + size // 3
        center = (16 * size, 16 * (top + row.shape[0] // 2))
        cv2.circle(legend, center, 16 * size // 3, color, cv2.FILLED, cv2.LINE_AA, 4)
        if not filled:
            cv2.circle(legend, center, 16 * size // 5, BRIGHT, cv2.FILLED, cv2.LINE_AA, 4)
        legend[top : top + row.shape[0], 2 * size - size // 4 :][:, : row.shape[1]] = row
    height, width = canvas.shape[:2]
    shrink = min(1, LARGEST_LEGEND * min(width / legend.shape[1], height / legend.shape[0]))
    if shrink < 1:
        legend = cv2.resize(legend, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    h, w = legend.shape[:2]
    part = canvas[height - h :, :w]
    cv2.addWeighted(legend, 0.85, part, 0.15, 0, dst=part)


def letter_size(canvas: np.ndarray) -> int:
    """Returns the size of letters for a picture, px; it grows less than the picture."""
    return max(MIN_SIZE, round(12 * (reference_side(canvas) / 640) ** 0.6))


def reference_side(image: np.ndarray) -> int:
    """Returns the side of an image that sets the sizes in its picture, px.

    It is the longer side, but limited in long strips, whose titles would otherwise need thousands
    of times their area.
    """
    short, long = sorted(image.shape[:2])
    return min(long, MAX_STRETCH * short)


@lru_cache(maxsize=64)
def _font(size: int, ascii_only: bool) -> ImageFont.FreeTypeFont:
    """Returns Pillow's font, or for other than ASCII, which it lacks, a font of the system."""
    for file in () if ascii_only else SYSTEM_FONTS:
        with suppress(OSError):
            return ImageFont.truetype(file, size)
    return ImageFont.load_default(size)
