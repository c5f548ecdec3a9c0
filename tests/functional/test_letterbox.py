# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import (
    PAD_VALUE,
    Letterbox,
    letterbox,
    resize_and_pad,
    to_image,
    to_input,
)

image_sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
input_sizes = st.integers(1, 30).map(lambda n: 64 * n)


@pytest.mark.parametrize('case', ['single', 'group', 'crowd'])
def test_golden_geometry(shared_dir, case):
    golden = json.loads((shared_dir / 'golden' / 'postprocess.json').read_text())[case]
    lb = letterbox(tuple(golden['ori_hw'][::-1]), 1280)
    assert lb.input_size == tuple(golden['input_hw'][::-1])
    assert lb.scale == pytest.approx(golden['gain'])
    assert list(lb.pad[:2]) == golden['pad_xy']


# Image, resized image, rectangular input, its padding, padding of the square input of 1280 x 1280:
# w, h and left, top, right, bottom, computed with the formulas of docs/method.md, Network input.
TABLE = [
    ((640, 480), (1280, 960), (1280, 960), (0, 0, 0, 0), (0, 160, 0, 160)),
    ((480, 640), (960, 1280), (960, 1280), (0, 0, 0, 0), (160, 0, 160, 0)),
    ((1280, 960), (1280, 960), (1280, 960), (0, 0, 0, 0), (0, 160, 0, 160)),
    ((1281, 720), (1280, 719), (1280, 768), (0, 24, 0, 25), (0, 280, 0, 281)),
    ((333, 500), (852, 1280), (896, 1280), (22, 0, 22, 0), (214, 0, 214, 0)),
    ((1, 1), (1280, 1280), (1280, 1280), (0, 0, 0, 0), (0, 0, 0, 0)),
    ((100, 3000), (42, 1280), (64, 1280), (11, 0, 11, 0), (619, 0, 619, 0)),
    ((4000, 3000), (1280, 960), (1280, 960), (0, 0, 0, 0), (0, 160, 0, 160)),
]


@pytest.mark.parametrize(('image', 'resized', 'rectangle', 'pad', 'square_pad'), TABLE)
def test_input_sizes_of_a_table_of_image_sizes(image, resized, rectangle, pad, square_pad):
    lb = letterbox(image, 1280)
    assert lb == Letterbox(image, resized, pad)
    assert lb.input_size == rectangle
    square = letterbox(image, 1280, square=True)
    assert square == Letterbox(image, resized, square_pad)
    assert square.input_size == (1280, 1280)


@given(image_sizes, input_sizes, st.booleans())
def test_geometry_of_the_documented_examples(image_size, input_size, square):
    lb = letterbox(image_size, input_size, square=square)
    assert max(lb.resized_size) == input_size
    for axis in (0, 1):
        resized = math.floor(Fraction(image_size[axis] * input_size, max(image_size)))
        assert lb.resized_size[axis] == max(1, resized)  # of an image of 1 x 5000 a column stays
        padded = math.ceil(lb.resized_size[axis] / 64) * 64
        assert lb.input_size[axis] == (input_size if square else padded)
        each = (lb.input_size[axis] - lb.resized_size[axis]) / 2
        assert lb.pad[axis] == round(each - 0.1)
        assert lb.pad[axis + 2] == round(each + 0.1)


@given(image_sizes, input_sizes, st.booleans())
def test_points_return_to_the_image(image_size, input_size, square):
    lb = letterbox(image_size, input_size, square=square)
    points = np.array([[0, 0], image_size, (image_size[0] / 3, -7)], np.float64)
    moved = to_input(points, lb)
    np.testing.assert_allclose(moved[0], lb.pad[:2])
    np.testing.assert_allclose(moved[1], np.add(lb.pad[:2], lb.resized_size))
    np.testing.assert_allclose(to_image(moved, lb), points, atol=1e-6)


def test_points_keep_float32():
    points = np.ones((2, 17, 2), np.float32)
    moved = to_input(points, letterbox((640, 427), 1280))
    assert moved.dtype == np.float32
    assert to_image(moved, letterbox((640, 427), 1280)).dtype == np.float32


def test_points_stay_on_the_content_of_the_image():
    image = np.zeros((120, 200, 3), np.uint8)
    image[40:60, 150:180] = 255  # a box with corners (150, 40), (180, 60)
    for input_size in (128, 448):
        lb = letterbox((200, 120), input_size)
        weight = (resize_and_pad(image, lb)[..., 0].astype(float) - PAD_VALUE).clip(0)
        ys, xs = np.mgrid[: weight.shape[0], : weight.shape[1]] + 0.5
        center = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(to_image(center, lb), [165, 50], atol=0.2)


@pytest.mark.parametrize('image_size', [(1, 1), (1, 2000), (2000, 1), (3, 64), (64, 64)])
@pytest.mark.parametrize('square', [False, True])
def test_extreme_images_work(image_size, square):
    lb = letterbox(image_size, 128, square=square)
    image = np.full((*image_size[::-1], 3), 9, np.uint8)
    result = resize_and_pad(image, lb)
    left, top, _, _ = lb.pad
    width, height = lb.resized_size
    assert result.shape == (*lb.input_size[::-1], 3)
    assert (result[top : top + height, left : left + width] == 9).all()
    assert (result == PAD_VALUE).sum() == result.size - 3 * width * height


def test_area_interpolation_when_shrinking_bilinear_when_growing():
    stripes = np.zeros((64, 256, 3), np.uint8)
    stripes[:, ::4] = 200  # bilinear to a quarter reads pixels 1 and 2 of 4 only
    assert (resize_and_pad(stripes, letterbox((256, 64), 64))[24:40] == 50).all()
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    assert len(np.unique(resize_and_pad(step, letterbox((64, 64), 256)))) > 2


def test_image_of_the_right_size_is_only_copied():
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    result = resize_and_pad(image, letterbox((128, 64), 128))
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize('input_size', [0, -64, 100])
def test_input_size_must_fit_the_grids(input_size):
    with pytest.raises(InputError, match=f'multiple of 64, got {input_size}'):
        letterbox((10, 10), input_size)


def test_odd_padding_goes_right_and_bottom():
    assert letterbox((128, 61), 128) == Letterbox((128, 61), (128, 61), (0, 1, 0, 2))
