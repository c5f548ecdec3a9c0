# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from PIL import Image

from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr, round_pixels

BGR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = BGR[..., 0]
BGRA = np.dstack([BGR, GRAY])


def test_bgr_uint8_is_returned_as_it_is():
    assert as_bgr(BGR) is BGR or np.shares_memory(as_bgr(BGR), BGR)


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (BGR[:, ::-1], BGR[:, ::-1]),
        (BGR[..., ::-1][..., ::-1], BGR),
        (GRAY, np.dstack([GRAY] * 3)),
        (GRAY[..., None], np.dstack([GRAY] * 3)),
        (BGRA, BGR),
        (GRAY > 99, np.dstack([(GRAY > 99) * 255] * 3)),
        (BGR.astype(np.uint16) * 257, BGR),
        (BGR.astype('>u2') * 256 + 17, BGR),
        (BGR.astype(np.int64), BGR),
        (BGR.astype(np.float32), BGR),
        (BGR.astype(np.float64).clip(0, 254) + 0.4, BGR.clip(0, 254)),
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 3))),
        (np.zeros((2, 3, 3), np.uint16), np.zeros((2, 3, 3))),
    ],
)
def test_clear_arrays_become_bgr(image, expected):
    found = as_bgr(image)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (None, 'not .*NoneType'),
        ([[1, 2], [3, 4]], 'not .*list'),
        (np.zeros((0, 4, 3), np.uint8), r'not \(0, 4, 3\)'),
        (np.zeros(5, np.uint8), r'not \(5,\)'),
        (np.zeros((3, 20, 30), np.uint8), r'not \(3, 20, 30\)'),
        (np.zeros((4, 5, 2), np.uint8), r'not \(4, 5, 2\)'),
        (np.zeros((1, 4, 5, 3), np.uint8), r'not \(1, 4, 5, 3\)'),
        (np.zeros((4, 5, 3), complex), 'must have numbers, not complex'),
        (np.full((4, 5), 'a'), 'must have numbers, not <U1'),
        (BGR / 256, r'no value above 0\.9.*; it is not clear whether white is 255 or 1:'),
        (BGR.astype(np.uint16), 'no value above 249; .* white is 255 or 65535'),
        (BGR.astype(np.int32) * 257, 'values of 0 to 255, not 0 to 6'),
        (BGR - 0.5, 'values of 0 to 255, not -0.5'),
        (np.full((4, 5, 3), np.nan), 'values of 0 to 255, not nan'),
        (np.full((4, 5, 3), np.inf), 'values of 0 to 255, not inf'),
    ],
)
def test_unclear_images_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        as_bgr(image)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'RGBX', 'RGBa', 'CMYK'])
def test_pil_images_become_bgr(mode):
    image = Image.fromarray(BGR[..., ::-1].copy())
    image = image.convert('RGBA').convert(mode) if mode == 'RGBa' else image.convert(mode)
    np.testing.assert_array_equal(as_bgr(image), BGR)


@pytest.mark.parametrize('mode', ['L', 'LA', 'La', 'I', 'F', 'I;16'])
def test_gray_pil_images_become_bgr(mode):
    image = Image.fromarray(GRAY)
    if mode == 'I;16':
        image = Image.fromarray(GRAY.astype(np.uint16) * 257)
    elif mode == 'La':
        image = image.convert('LA').convert(mode)
    else:
        image = image.convert(mode)
    np.testing.assert_array_equal(as_bgr(image), np.dstack([GRAY] * 3))


def test_palettes_and_bits_become_bgr():
    bits = Image.fromarray(GRAY > 99)
    np.testing.assert_array_equal(as_bgr(bits), np.dstack([(GRAY > 99) * 255] * 3))
    two = np.where((GRAY > 99)[..., None], BGR[0, 0], BGR[1, 1])
    palette = Image.fromarray(two[..., ::-1].copy()).quantize(2)
    np.testing.assert_array_equal(as_bgr(palette), two)


def test_pil_images_are_turned_as_their_exif_orientation_says():
    image = Image.fromarray(BGR[..., ::-1].copy())
    image.getexif()[0x0112] = 6
    np.testing.assert_array_equal(as_bgr(image), np.rot90(BGR, -1))


def test_colors_that_transforms_leave_are_rounded_and_clipped():
    image = np.array([[[-3.0, 0.4, 0.6], [254.6, 255.4, 300.0]]], np.float32)
    found = round_pixels(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[[0, 0, 1], [255, 255, 255]]])
    assert round_pixels(BGR) is BGR


@pytest.mark.parametrize(
    'image', [BGR / 255, np.full((4, 5, 3), np.nan), np.full((4, 5, 3), np.inf)]
)
def test_normalized_colors_are_refused(image):
    with pytest.raises(InputError, match='a transform of the pipeline'):
        round_pixels(image)


def test_black_images_that_a_transform_brightened_stay_black():
    assert not round_pixels(np.full((4, 5, 3), 0.3)).any()
