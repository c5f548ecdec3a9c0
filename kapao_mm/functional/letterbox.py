# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Evaluation geometry, both ways: original image <-> network input (docs/method.md, Network input).

Coordinates are continuous: pixel i spans [i, i + 1), an image of width w spans [0, w].
Sizes are (w, h).
"""

from typing import NamedTuple

import cv2
import numpy as np

from kapao_mm.errors import InputError

PAD_VALUE = 114  # grey of every padded pixel, as in training
INPUT_DIVISOR = 64  # stride of the coarsest grid


class Letterbox(NamedTuple):
    """How one image becomes a network input: resized, then padded.

    Attributes:
        image_size: (w, h) of the original image.
        resized_size: (w, h) of the resized image inside the input.
        pad: Padding (left, top, right, bottom), input px.
    """

    image_size: tuple[int, int]
    resized_size: tuple[int, int]
    pad: tuple[int, int, int, int]

    @property
    def input_size(self) -> tuple[int, int]:
        """Size (w, h) of the network input."""
        (width, height), (left, top, right, bottom) = self.resized_size, self.pad
        return left + width + right, top + height + bottom

    @property
    def scale(self) -> np.ndarray:
        """Input px per original px, shape (2,) for x and y, float64."""
        return np.divide(self.resized_size, self.image_size)


def letterbox(
    image_size: tuple[int, int],
    input_size: int,
    divisor: int = INPUT_DIVISOR,
    square: bool = False,
) -> Letterbox:
    """Fits an image into the network input: long side to ``input_size``, centred padding.

    The short side is padded to the next multiple of ``divisor``, or to ``input_size`` if
    ``square``. An odd padding puts its extra pixel at the right or bottom.

    Args:
        image_size: (w, h) of the original image.
        input_size: Long side of the network input, a multiple of ``divisor``.
        divisor: Both sides of the input are multiples of it.
        square: Pad to ``input_size`` x ``input_size``.

    Raises:
        InputError: If ``input_size`` is not a positive multiple of ``divisor``.
    """
    if input_size <= 0 or input_size % divisor:
        raise InputError(f'input_size must be a positive multiple of {divisor}, got {input_size}')
    long_side = max(image_size)
    width, height = (max(1, side * input_size // long_side) for side in image_size)
    pad_x, pad_y = ((input_size - side) if square else -side % divisor for side in (width, height))
    left, top = pad_x // 2, pad_y // 2
    return Letterbox(image_size, (width, height), (left, top, pad_x - left, pad_y - top))


def to_input(points: np.ndarray, lb: Letterbox) -> np.ndarray:
    """Maps points (..., 2) from original-image px to input px; the floating dtype stays."""
    dtype = np.result_type(points, np.float32)
    return points * lb.scale.astype(dtype) + np.array(lb.pad[:2], dtype)


def to_image(points: np.ndarray, lb: Letterbox) -> np.ndarray:
    """Maps points (..., 2) from input px to original-image px; the floating dtype stays."""
    dtype = np.result_type(points, np.float32)
    return (points - np.array(lb.pad[:2], dtype)) / lb.scale.astype(dtype)


def resize_and_pad(image: np.ndarray, lb: Letterbox) -> np.ndarray:
    """Resizes and pads an image (h, w, 3) uint8 of size ``lb.image_size`` to the network input.

    Area interpolation when shrinking, bilinear when growing. Returns a new, contiguous array.
    """
    if lb.resized_size != lb.image_size:
        shrinks = max(lb.resized_size) < max(lb.image_size)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, lb.resized_size, interpolation=interpolation)
    left, top, right, bottom = lb.pad
    border = (PAD_VALUE,) * 3
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=border)
