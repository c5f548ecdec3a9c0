# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tests the mosaic; TracedMosaic and RandomScaleTranslate are the reference of both combined."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpose.registry import TRANSFORMS

from kapao_mm.datasets.transforms.affine import INSTANCE_KEYS
from kapao_mm.datasets.transforms.mosaic import Canvas, Tile
from kapao_mm.functional.letterbox import PAD_VALUE

SIZE = 64
CELL = 8  # side of the colored square that marks a keypoint, px of the source image


class Sources:
    """A dataset of plain images, each with a marked square: box and center keypoint."""

    def __init__(self, sizes: list[tuple[int, int]], people: int = 1) -> None:
        self.sizes, self.people = sizes, people

    def __len__(self) -> int:
        return len(self.sizes)

    def get_data_info(self, index: int) -> dict:
        width, height = self.sizes[index]
        img = np.full((height, width, 3), 10, np.uint8)
        x, y = width // 2, height // 2
        img[y : y + CELL, x : x + CELL] = 200 + index
        n = self.people
        box = np.array([[x, y, x + CELL, y + CELL]] * n, np.float32).reshape(n, 4)
        return dict(
            img=img,
            img_path=f'{index}.jpg',
            bbox=box,
            bbox_score=np.ones(n, np.float32),
            category_id=np.full(n, index),
            keypoints=((box[:, :2] + box[:, 2:]) / 2)[:, None],
            keypoints_visible=np.ones((n, 1), np.float32),
        )


class Pass:
    def __call__(self, results: dict) -> dict:
        return results


@pytest.fixture
def mosaic():
    return TRANSFORMS.build(
        dict(type='TracedMosaic', img_scale=(SIZE, SIZE), pre_transform=[Pass()])
    )


def run(mosaic, dataset: Sources, seed: int) -> dict:
    np.random.seed(seed)
    return mosaic.transform(dict(dataset.get_data_info(0), dataset=dataset))


def test_labels_and_paths_follow_the_four_images(mosaic):
    dataset = Sources([(32, 48), (100, 64), (64, 64), (200, 90)])
    for seed in range(30):
        results = run(mosaic, dataset, seed)
        assert results['mosaic_paths'] == [f'{index}.jpg' for index in results['category_id']]
        assert results['img'].shape == (2 * SIZE, 2 * SIZE, 3)
        assert len(results['bbox']) == 4
        for i in range(4):
            (x, y), index = results['keypoints'][i, 0], results['category_id'][i]
            inside = (0 <= x <= 2 * SIZE) and (0 <= y <= 2 * SIZE)
            assert results['keypoints_visible'][i, 0] == inside
            x1, y1, x2, y2 = results['bbox'][i]
            assert 0 <= x1 <= x2 <= 2 * SIZE and 0 <= y1 <= y2 <= 2 * SIZE
            if 2 < x < 2 * SIZE - 2 and 2 < y < 2 * SIZE - 2:
                assert results['img'][int(y), int(x), 0] == 200 + index
                scale = SIZE / max(dataset.sizes[index])  # the long side becomes SIZE
                if x2 < 2 * SIZE and y2 < 2 * SIZE and x1 > 0 and y1 > 0:
                    np.testing.assert_allclose([x2 - x1, y2 - y1], CELL * scale, rtol=1e-4)


def test_center_fills_its_range_and_the_rest_is_padding(mosaic):
    centers = []
    for seed in range(200):
        results = run(mosaic, Sources([(SIZE, SIZE // 2)]), seed)
        picture = results['img'][..., 0] != PAD_VALUE
        rows, columns = np.nonzero(picture.any(1))[0], np.nonzero(picture.any(0))[0]
        # two images of half height lie above the center and two below
        centers.append((rows[0] + SIZE // 2, rows[-1] + 1 - SIZE // 2))
        assert columns[0] >= 0 and picture.sum() <= 4 * SIZE * SIZE // 2
    tops, bottoms = np.transpose(centers)
    np.testing.assert_array_equal(tops, bottoms)
    assert SIZE // 2 <= tops.min() <= SIZE // 2 + 2
    assert SIZE * 3 // 2 - 3 <= tops.max() <= SIZE * 3 // 2


def test_images_without_people_keep_the_shapes(mosaic):
    results = run(mosaic, Sources([(64, 64)], people=0), 0)
    assert results['bbox'].shape == (0, 4)
    assert results['keypoints'].shape == (0, 1, 2)
    assert results['keypoints_visible'].shape == (0, 1)
    assert all(results[key].shape == (0,) for key in ('bbox_score', 'category_id'))
    assert results['bbox'].dtype == results['keypoints'].dtype == np.float32


@pytest.mark.parametrize('size', [(1, 1), (2, 500), (500, 2), (1, 65), (65, 1)])
def test_thin_images_keep_one_pixel_and_their_labels(mosaic, size):
    dataset = Sources([(SIZE, SIZE), size])
    width, height = size
    scale = SIZE / max(size)
    for seed in range(10):
        results = run(mosaic, dataset, seed)
        assert results['img'].shape == (2 * SIZE, 2 * SIZE, 3)
        for index, (x1, y1, x2, y2) in zip(results['category_id'], results['bbox'], strict=True):
            inside = x1 > 0 and x2 < 2 * SIZE and y1 > 0 and y2 < 2 * SIZE
            if index == 1 and inside:
                np.testing.assert_allclose([x2 - x1, y2 - y1], CELL * scale, rtol=1e-3)


def test_thin_images_are_drawn_at_their_labels(mosaic):
    dataset = Sources([(SIZE * 100, 10)] * 2)  # would become 64 x 0 px
    for seed in range(10):
        results = run(mosaic, dataset, seed)
        x, y = results['keypoints'][0, 0]  # of the image at the top left
        assert results['img'][int(y) : int(y) + 1, int(x) : int(x) + 1].max() != PAD_VALUE


class Noise(Sources):
    """Images of noise, with keypoints also at and beyond their edges."""

    def get_data_info(self, index: int) -> dict:
        info = super().get_data_info(index)
        rng = np.random.default_rng(index)
        info['img'] = rng.integers(0, 256, info['img'].shape, np.uint8)
        info['keypoints'] += rng.normal(0, 30, info['keypoints'].shape).astype(np.float32)
        return info


def combined(scale_range: tuple[float, float], max_shift: float):
    return TRANSFORMS.build(
        dict(
            type='MosaicScaleTranslate',
            input_size=SIZE,
            scale_range=scale_range,
            max_shift=max_shift,
            pre_transform=[Pass()],
        )
    )


# Enlarged by integer factors, by others, unchanged, shrunk, and thin.
sizes = st.sampled_from([(32, 24), (16, 32), (33, 32), (50, 37), (64, 64), (64, 41), (200, 90)])
sizes |= st.tuples(st.integers(1, 140), st.integers(1, 140))
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(st.lists(sizes, min_size=1, max_size=4), seeds, st.floats(0.1, 3), st.floats(0, 0.5))
def test_combined_transform_gives_the_samples_of_two_transforms(sizes, seed, scale, max_shift):
    dataset, scale_range = Noise(sizes), (scale / 2, scale)
    mosaic = TRANSFORMS.build(
        dict(type='TracedMosaic', img_scale=(SIZE, SIZE), pre_transform=[Pass()])
    )
    affine = TRANSFORMS.build(
        dict(
            type='RandomScaleTranslate',
            input_size=SIZE,
            scale_range=scale_range,
            max_shift=max_shift,
        )
    )
    expected = affine.transform(run(mosaic, dataset, seed))
    state = np.random.get_state()[1]

    def never_read(shape, dtype=float, **_):
        return np.full(shape, 255, dtype)

    with patch.object(np, 'empty', never_read):  # memory may hold the reference's canvas
        found = run(combined(scale_range, max_shift), dataset, seed)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert found.keys() == expected.keys()
    assert found['mosaic_paths'] == expected['mosaic_paths']
    assert found['img_shape'] == expected['img_shape']
    for key in ('img', *INSTANCE_KEYS):
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
        assert found[key].dtype == expected[key].dtype


def test_invisible_images_are_not_read():
    gray, corner = np.zeros((8, 8, 3), np.uint8), np.array([0, 0])
    visible = Tile(gray, (8, 8), corner, (0, 0, 8, 8))
    beside = Tile(None, (8, 8), corner + 8, (8, 8, 16, 16))
    canvas = Canvas((16, 16, 3), [visible, beside]).paint(corner, corner + 8)
    assert not canvas[:8, :8].any()


def test_only_the_visible_part_is_resized_for_integer_factors():
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    tile = Tile(image, (300, 300), np.array([0, 0]), (0, 0, 300, 300))
    with patch('cv2.resize', side_effect=lambda part, size: np.zeros((*size[::-1], 3))) as resize:
        assert tile.resized(np.array([30, 120]), np.array([60, 270])).shape == (150, 30, 3)
    (part, size), _ = resize.call_args
    assert part.shape == (52, 12, 3) and tuple(size) == (36, 156)


def test_colors_beyond_white_and_black_are_clipped(mosaic):
    class Bright(Sources):
        def get_data_info(self, index: int) -> dict:
            info = super().get_data_info(index)
            return info | dict(img=np.where(info['img'] > 99, 300, -20).astype(np.float32))

    image = run(mosaic, Bright([(64, 64)] * 4), 0)['img']
    assert set(np.unique(image)) == {0, PAD_VALUE, 255}
