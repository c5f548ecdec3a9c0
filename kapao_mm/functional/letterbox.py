# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Maps between original image and network input in evaluation (docs/method.md, Network input).

Coordinates are continuous: pixel i spans [i, i + 1), and an image of width w spans [0, w]. Sizes
are (w, h).
"""

from typing import NamedTuple

import cv2
import numpy as np

from kapao_mm.errors import InputError

PAD_VALUE = 114  # gray value of padded pixels, as in training
INPUT_DIVISOR = 64  # stride of the coarsest level, px


class Letterbox(NamedTuple):
    """Describes how an image becomes a network input: it is resized, then padded.

    Attributes:
        image_size: Size (w, h) of the original image, px.
        resized_size: Size (w, h) of the resized image inside the network input, px.
        pad: Padding (left, top, right, bottom), px of the network input.
    """

    image_size: tuple[int, int]
    resized_size: tuple[int, int]
    pad: tuple[int, int, int, int]

    @property
    def input_size(self) -> tuple[int, int]:
        """Returns the size (w, h) of the network input, px."""
        (width, height), (left, top, right, bottom) = self.resized_size, self.pad
        return left + width + right, top + height + bottom

    @property
    def scale(self) -> np.ndarray:
        """Returns network input px per original image px, (2,) for x and y, float64."""
        return np.divide(self.resized_size, self.image_size)


def letterbox(
    image_size: tuple[int, int],
    input_size: int,
    divisor: int = INPUT_DIVISOR,
    square: bool = False,
) -> Letterbox:
    """Fits an image into the network input: longer side to ``input_size``, then padding.

    The shorter side is padded to the next multiple of ``divisor``, or to ``input_size`` if
    ``square``. The padding is divided between both ends; if it is odd, the right or the bottom gets
    one pixel more.

    Args:
        image_size: Size (w, h) of the original image, px.
        input_size: Longer side of the network input, px, a multiple of ``divisor``.
        divisor: Number that both sides of the network input are multiples of.
        square: Whether to pad to ``input_size`` x ``input_size``.

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
    """Maps points (..., 2) from px of the original image to px of the network input.

    The floating-point dtype of the points is kept.
    """
    dtype = np.result_type(points, np.float32)
    return points * lb.scale.astype(dtype) + np.array(lb.pad[:2], dtype)


def to_image(points: np.ndarray, lb: Letterbox) -> np.ndarray:
    """Maps points (..., 2) from px of the network input to px of the original image.

    The floating-point dtype of the points is kept.
    """
    dtype = np.result_type(points, np.float32)
    return (points - np.array(lb.pad[:2], dtype)) / lb.scale.astype(dtype)


def resize_and_pad(image: np.ndarray, lb: Letterbox) -> np.ndarray:
    """Resizes and pads an image to the network input.

    Uses area interpolation for shrinking and bilinear interpolation for growing.

    Args:
        image: Image of size ``lb.image_size``, (h, w, 3) uint8.
        lb: Letterbox of the image.

    Returns:
        The network input, a new contiguous array, (H, W, 3) uint8.
    """
    if lb.resized_size != lb.image_size:
        shrinks = max(lb.resized_size) < max(lb.image_size)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, lb.resized_size, interpolation=interpolation)
    left, top, right, bottom = lb.pad
    border = (PAD_VALUE,) * 3
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=border)
