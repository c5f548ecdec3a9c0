# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest

from kapao_mm.datasets.transforms import CheckedLoadImage
from kapao_mm.errors import InputError


@pytest.fixture
def path(tmp_path) -> str:
    """The path of a good image of 6 x 4 px."""
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.full((4, 6, 3), 3, np.uint8))
    return path


def test_good_image_is_read(path):
    results = CheckedLoadImage().transform(dict(img_path=path))
    assert results['img'].shape == (4, 6, 3)
    assert results['ori_shape'] == (4, 6)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [(None, 'does not exist'), (b'', 'cannot be read'), (b'no image', 'cannot be read')],
)
def test_missing_or_corrupt_file_is_reported_with_its_path(tmp_path, content, reason):
    path = tmp_path / 'bad.jpg'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f'image {path} {reason}'):
        CheckedLoadImage().transform(dict(img_path=str(path)))


@pytest.mark.parametrize('options', [{}, dict(color_type='grayscale'), dict(to_float32=True)])
def test_gray_and_16_bit_files_become_bgr(tmp_path, options):
    gray = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, gray.astype(np.uint16) * 257)
    image = CheckedLoadImage(**options).transform(dict(img_path=path))['img']
    assert image.dtype == (np.float32 if options.get('to_float32') else np.uint8)
    np.testing.assert_array_equal(image, np.dstack([gray] * 3))


def test_arrays_become_bgr():
    gray = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)
    results = CheckedLoadImage().transform(dict(img=gray.astype(np.uint16) * 257))
    np.testing.assert_array_equal(results['img'], np.dstack([gray] * 3))
    assert results['img_shape'] == results['ori_shape'] == (4, 6)


def test_value_that_is_no_image_is_an_error():
    with pytest.raises(InputError, match='an image must'):
        CheckedLoadImage().transform(dict(img='a.jpg'))


def test_files_of_another_backend_are_read(path, tmp_path):
    load = CheckedLoadImage(backend_args=dict(backend='local'))
    assert load.transform(dict(img_path=path))['img'].shape == (4, 6, 3)
    with pytest.raises(InputError, match='gone.png cannot be read'):
        load.transform(dict(img_path=str(tmp_path / 'gone.png')))


def test_size_check_is_called_once(path):
    seen = []
    results = dict(
        img_path=path, img_id=7, annotated_size=(6, 5), size_check=lambda *args: seen.append(args)
    )
    CheckedLoadImage().transform(results)
    assert seen == [((6, 4), (6, 5), path, 7)]
    assert not {'annotated_size', 'size_check'} & results.keys()
