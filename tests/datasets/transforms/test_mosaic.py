# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What the training pipeline relies on in Mosaic, which but for the paths is MMPose's."""

import numpy as np
import pytest
from mmpose.registry import TRANSFORMS

from kapao_mm.functional.letterbox import PAD_VALUE

SIZE = 64
CELL = 8  # side of the coloured square that marks a keypoint, px of the source image


class Sources:
    """A data set of plain images, each with a marked square: box and centre keypoint."""

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


def test_centre_fills_its_range_and_the_rest_is_padding(mosaic):
    centres = []
    for seed in range(200):
        results = run(mosaic, Sources([(SIZE, SIZE // 2)]), seed)
        picture = results['img'][..., 0] != PAD_VALUE
        rows, columns = np.nonzero(picture.any(1))[0], np.nonzero(picture.any(0))[0]
        # two images of half height lie above the centre and two below
        centres.append((rows[0] + SIZE // 2, rows[-1] + 1 - SIZE // 2))
        assert columns[0] >= 0 and picture.sum() <= 4 * SIZE * SIZE // 2
    tops, bottoms = np.transpose(centres)
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
def test_thin_images_keep_a_pixel_and_their_labels(mosaic, size):
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


def test_the_picture_of_a_thin_image_is_where_its_label_is(mosaic):
    dataset = Sources([(SIZE * 100, 10)] * 2)  # would become 64 x 0 px
    for seed in range(10):
        results = run(mosaic, dataset, seed)
        x, y = results['keypoints'][0, 0]  # of the image at the top left
        assert results['img'][int(y) : int(y) + 1, int(x) : int(x) + 1].max() != PAD_VALUE
