# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from kapao_mm.datasets.transforms import HorizontalFlip, RandomScaleTranslate
from kapao_mm.functional.letterbox import PAD_VALUE

K = 3


def sample(image: np.ndarray, boxes: np.ndarray, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n, (height, width) = len(boxes), image.shape[:2]
    return dict(
        img=image,
        img_shape=image.shape,  # MMPose's Mosaic leaves (h, w, 3)
        bbox=boxes,
        bbox_score=np.ones(n, np.float32),
        category_id=np.arange(n),
        keypoints=rng.uniform(0, (width, height), (n, K, 2)).astype(np.float32),
        keypoints_visible=rng.integers(0, 2, (n, K)).astype(np.float32),
        flip_indices=[0, 2, 1],
        input_size=(9, 9),
        input_scale=9,
        input_center=9,
    )


def canvas(side: int) -> np.ndarray:
    """A smooth image, so that interpolation is exact to a few levels."""
    ys, xs = np.mgrid[:side, :side]
    return np.stack([xs * 200 / side, ys * 200 / side, (xs + ys) * 90 / side], -1).astype(np.uint8)


def random_boxes(side: int, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side, (n, 2))
    far = np.minimum(corner + rng.uniform(0, side, (n, 2)) ** 2 / side, side)
    far[::5, 0] = corner[::5, 0] + side / 200  # thin ones
    return np.concatenate([corner, far], 1)


def marked(image: np.ndarray) -> dict:
    """A sample whose first two keypoints are corners of the canvas and reveal the affine."""
    side = len(image)
    results = sample(image, [[side / 4, side / 4, 3 * side / 4, 3 * side / 4]])
    results['keypoints'][0, :2] = [(0, 0), (side, side)]
    return results


@pytest.mark.parametrize('times', [1, 2])
def test_labels_and_removed_objects_agree_with_a_plain_loop(times):
    size = 64
    dropped = 0
    for seed in range(40):
        before = sample(canvas(size * times), random_boxes(size * times, 20, seed), seed)
        transform = RandomScaleTranslate(size, (0.1, 1.9), 0.1)
        np.random.seed(seed)
        after = transform.transform({key: value for key, value in before.items()})
        np.random.seed(seed)
        scale = np.random.uniform(0.1, 1.9)
        center = (0.5 + np.random.uniform(-0.1, 0.1, 2)) * size

        def move(point, scale=scale, center=center):
            return [scale * (point[i] - size * times / 2) + center[i] for i in (0, 1)]

        expected = []
        for i, box in enumerate(before['bbox']):
            corners = move(box[:2]) + move(box[2:])
            clipped = [min(max(value, 0), size) for value in corners]
            width, height = clipped[2] - clipped[0], clipped[3] - clipped[1]
            full = (corners[2] - corners[0]) * (corners[3] - corners[1])
            if width <= 2 or height <= 2 or width * height <= 0.1 * full:
                continue
            if max(width / height, height / width) >= 20:
                continue
            points = [move(point) for point in before['keypoints'][i]]
            visible = [
                v if 0 <= x <= size and 0 <= y <= size else 0
                for (x, y), v in zip(points, before['keypoints_visible'][i], strict=True)
            ]
            expected.append((i, clipped, points, visible))
        dropped += 20 - len(expected)
        assert after['category_id'].tolist() == [row[0] for row in expected]
        for key, column in (('bbox', 1), ('keypoints', 2), ('keypoints_visible', 3)):
            values = np.array([row[column] for row in expected]).reshape(after[key].shape)
            np.testing.assert_allclose(after[key], values, atol=1e-3)
            assert after[key].dtype == np.float32
        assert len(after['bbox_score']) == len(expected)
    assert 100 < dropped < 700  # both cases occurred


@pytest.mark.parametrize('scale', [0.3, 1.0, 1.7])
def test_image_moves_with_its_labels(scale):
    size = 48
    source = canvas(2 * size)
    transform = RandomScaleTranslate(size, (scale, scale), 0.1)
    np.random.seed(1)
    results = transform.transform(marked(source.copy()))
    low, high = results['keypoints'][0, :2].astype(float)
    np.testing.assert_allclose((high - low) / (2 * size), scale, rtol=1e-5)

    expected = np.full((size, size, 3), PAD_VALUE, float)
    compared = np.zeros((size, size), bool)
    for row in range(size):
        for column in range(size):
            # the pixel's center, in continuous canvas coordinates, then as an index
            x, y = (np.array([column, row]) + 0.5 - low) / scale - 0.5
            i, j = int(np.floor(x)), int(np.floor(y))
            if 0 <= i < 2 * size - 1 and 0 <= j < 2 * size - 1:
                fx, fy = x - i, y - j
                patch = source[j : j + 2, i : i + 2].astype(float)
                top, bottom = patch[:, 0] * (1 - fx) + patch[:, 1] * fx
                expected[row, column] = top * (1 - fy) + bottom * fy
                compared[row, column] = True
            elif x < -1 or y < -1 or x > 2 * size or y > 2 * size:
                compared[row, column] = True  # padding
    difference = np.abs(results['img'][compared] - expected[compared])
    assert difference.max() <= 1.5
    assert compared.mean() > 0.8


@pytest.mark.parametrize('times', [1, 2])
def test_scale_and_center_fill_the_ranges_of_the_config(times):
    size = 32
    transform = RandomScaleTranslate(size, (0.5, 1.5), 0.1)
    scales, centers = [], []
    for seed in range(300):
        np.random.seed(seed)
        low, high = transform.transform(marked(canvas(times * size)))['keypoints'][0, :2]
        scales.append((high - low)[0] / (times * size))
        centers.append((low + high) / 2 / size)
    assert 0.5 <= min(scales) < 0.52 and 1.48 < max(scales) <= 1.5
    assert (np.min(centers, 0) >= 0.4 - 1e-5).all() and (np.min(centers, 0) < 0.405).all()
    assert (np.max(centers, 0) <= 0.6 + 1e-5).all() and (np.max(centers, 0) > 0.595).all()


def test_mapping_to_the_original_image_is_removed():
    results = RandomScaleTranslate(32, (0.5, 1.5), 0.1).transform(marked(canvas(32)))
    assert results['img_shape'] == (32, 32)
    assert not {'input_size', 'input_scale', 'input_center'} & results.keys()


def test_images_without_people_keep_their_shapes():
    results = RandomScaleTranslate(32, (0.5, 1.5), 0.1).transform(sample(canvas(64), []))
    results = HorizontalFlip(1.0).transform(results)
    assert results['bbox'].shape == (0, 4)
    assert results['keypoints'].shape == (0, K, 2)
    assert results['keypoints_visible'].shape == (0, K)


def test_flip_mirrors_image_and_labels_and_swaps_sides():
    image = np.zeros((20, 31, 3), np.uint8)
    image[5:9, 4:10] = 255
    results = sample(image, [[4, 5, 10, 9]])
    before = {key: np.copy(results[key]) for key in ('keypoints', 'keypoints_visible')}
    results['bbox'][0] = [4, 5, 10, 9]
    results = HorizontalFlip(1.0).transform(results)
    ys, xs = np.nonzero(results['img'][..., 0])
    extent = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_array_equal(results['bbox'][0], extent)
    swapped = before['keypoints'][:, [0, 2, 1]]
    np.testing.assert_allclose(results['keypoints'][..., 0], 31 - swapped[..., 0])
    np.testing.assert_allclose(results['keypoints'][..., 1], swapped[..., 1])
    np.testing.assert_array_equal(
        results['keypoints_visible'], before['keypoints_visible'][:, [0, 2, 1]]
    )


def test_flips_have_the_given_probability():
    np.random.seed(0)
    image = canvas(8)
    flips = sum(
        HorizontalFlip(0.3).transform(sample(image, []))['img'] is not image for _ in range(500)
    )
    assert 110 < flips < 190
