# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest

from kapao_mm.datasets.transforms import CheckedLoadImage
from kapao_mm.errors import InputError


def test_good_image_is_read(tmp_path):
    path = str(tmp_path / 'a.png')
    cv2.imwrite(path, np.full((4, 6, 3), 3, np.uint8))
    results = CheckedLoadImage().transform(dict(img_path=path))
    assert results['img'].shape == (4, 6, 3)
    assert results['ori_shape'] == (4, 6)


def test_array_passes():
    results = CheckedLoadImage().transform(dict(img=np.zeros((4, 6, 3), np.uint8)))
    assert results['ori_shape'] == (4, 6)


def test_missing_file_is_named(tmp_path):
    path = tmp_path / 'gone.jpg'
    with pytest.raises(InputError, match=f'image {path} does not exist'):
        CheckedLoadImage().transform(dict(img_path=str(path)))


@pytest.mark.parametrize('content', [b'', b'no image'])
def test_corrupt_file_is_named(tmp_path, content):
    path = tmp_path / 'bad.jpg'
    path.write_bytes(content)
    with pytest.raises(InputError, match=f'image {path} cannot be read as an image'):
        CheckedLoadImage().transform(dict(img_path=str(path)))
