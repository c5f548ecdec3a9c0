# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts images of many kinds to BGR (h, w, 3) uint8, the only kind that is processed further."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from kapao_mm.errors import InputError


def as_bgr(image: Any) -> np.ndarray:
    """Converts an image to BGR (h, w, 3) uint8.

    An image that is BGR uint8 already is returned unchanged. These images are converted too:

    - gray (h, w) and (h, w, 1), and BGRA (h, w, 4), whose alpha channel is dropped, as OpenCV does
      when it reads a file in color;
    - bool, where False is black and True is white;
    - uint16, scaled from 0..65535 as OpenCV does with a PNG file of 16 bits;
    - other integers, if all are 0..255;
    - floating-point numbers of 0..255, which are rounded;
    - PIL images of every mode that PIL converts to RGB, turned as their EXIF orientation says.

    Images whose range is unclear are refused unless they are all 0: a uint16 image without a value
    above 255 may hold 8-bit values, and a floating-point image without a value above 1 may hold
    values of 0..1 or be nearly black.

    Args:
        image: Numpy array or PIL image.

    Returns:
        The image, (h, w, 3) uint8, contiguous.

    Raises:
        InputError: If the image is of another kind, or the range of its values is unclear.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if not isinstance(image, np.ndarray):
        raise InputError(f'an image must be a numpy array or a PIL image, not {type(image)}')
    shape = image.shape
    if not image.size or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
        raise InputError(
            f'an image must have the shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), not {shape}'
        )
    pixels = _as_uint8(image).reshape(*shape[:2], -1)[..., :3]
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def round_pixels(image: np.ndarray) -> np.ndarray:
    """Rounds and clips floating-point images, as left by a transform, to uint8.

    Args:
        image: Image, (h, w) or (h, w, C) of any dtype; only floating-point images are changed.

    Returns:
        The image, uint8 if it was floating-point.

    Raises:
        InputError: If values are NaN or infinite, or the image was scaled to 0..1.
    """
    if image.dtype.kind != 'f':
        return image
    if not np.isfinite(image).all():
        raise InputError('a transform of the pipeline made values of an image NaN or infinite')
    low, high = image.min(), image.max()
    if 0 <= low < high <= 1 and (image != np.rint(image)).mean() > 0.5:
        raise InputError(
            'a transform of the pipeline left an image with values of 0 to 1; 0 to 255 are '
            'expected: leave it to model.data_preprocessor to scale them'
        )
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _from_pil(image: Image.Image) -> np.ndarray:
    """Converts a PIL image, see :func:`as_bgr`."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in 'IF':  # PIL would clip the values to 0..255
            return as_bgr(np.array(image))
        if image.mode.endswith('a'):  # premultiplied alpha, which PIL undoes in a separate step
            image = image.convert(image.mode.upper())
        return np.array(image.convert('RGB'))[..., ::-1].copy()
    except InputError:
        raise
    except Exception as error:  # decoders of PIL raise many types
        raise InputError(f'a PIL image of mode {image.mode} is not understood: {error}') from error


def _as_uint8(image: np.ndarray) -> np.ndarray:
    """Converts the values of an image, see :func:`as_bgr`."""
    kind = image.dtype.kind
    if image.dtype == np.uint8:
        return image
    if kind == 'b':
        return image.astype(np.uint8) * np.uint8(255)
    if kind not in 'iuf':
        raise InputError(f'an image must have numbers, not {image.dtype}')
    low, high = image.min(), image.max()
    wide = kind == 'u' and image.dtype.itemsize == 2
    if not (low >= 0 and high <= (65535 if wide else 255)):  # also true if a value is NaN
        raise InputError(
            f'an image of {image.dtype} must have values of 0 to 255, not {low} to {high}: convert '
            'it to uint8'
        )
    if high and ((wide and high <= 255) or (kind == 'f' and high <= 1)):
        full = 65535 if wide else 1
        raise InputError(
            f'an image of {image.dtype} has no value above {high}; it is not clear whether white '
            f'is 255 or {full}: convert it to uint8'
        )
    if wide:
        return (image >> 8).astype(np.uint8)
    return np.rint(image).astype(np.uint8)
