# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import re
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest

from kapao_mm.errors import InputError
from kapao_mm.image_files import find_images, name_outputs, read_image


def write_image(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((90, 120, 3), 90, np.uint8) if image is None else image)
    return path


def test_output_names_are_unique_even_beside_numbered_images():
    images = [Path('x/a.jpg'), Path('y/a.jpg'), Path('a_2.jpg')]
    assert name_outputs(images) == dict(zip(['a', 'a_2', 'a_2_2'], images, strict=True))


def test_folders_and_patterns_are_expanded_in_order(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'deep/c.jpg'):
        write_image(tmp_path / name)
    (tmp_path / 'notes.txt').touch()
    assert [p.name for p in find_images([str(tmp_path)])] == ['a.PNG', 'b.jpg']
    found = find_images([str(tmp_path / '**/*.jpg')])
    assert [p.name for p in found] == ['b.jpg', 'c.jpg']


def test_image_with_a_pattern_in_its_name_is_found(tmp_path):
    image = write_image(tmp_path / 'a[1].jpg')
    assert list(find_images([str(image)])) == [image]


def turned_jpeg(path: Path, image: np.ndarray, orientation: int) -> Path:
    """Writes a JPEG with an EXIF orientation."""
    entry = b'\x12\x01\x03\x00\x01\x00\x00\x00' + bytes([orientation, 0, 0, 0])
    exif = b'Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00' + entry + b'\x00\x00\x00\x00'
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    data = cv2.imencode('.jpg', image)[1].tobytes()
    path.write_bytes(data[:2] + segment + data[2:])
    return path


@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_turned_photos_are_read_as_mmpose_reads_them(tmp_path, orientation):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = turned_jpeg(tmp_path / 'a.jpg', image, orientation)
    read = read_image(path)
    assert read.shape == ((60, 40, 3) if orientation == 6 else (40, 60, 3))
    np.testing.assert_array_equal(read, mmcv.imread(path))


@pytest.mark.parametrize('shape', [(40, 60), (40, 60, 4)])
def test_grey_and_transparent_images_are_read_as_bgr(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = write_image(tmp_path / 'a.png', image)
    read = read_image(path)
    assert read.shape == (40, 60, 3) and read.dtype == np.uint8
    np.testing.assert_array_equal(read, mmcv.imread(path))
    np.testing.assert_array_equal(
        read, image[..., :3] if image.ndim == 3 else np.dstack([image] * 3)
    )


@pytest.mark.parametrize('content', [b'', b'no image', None])
def test_unreadable_images_are_named(tmp_path, content):
    path = tmp_path / 'a.jpg'
    if content is not None:
        path.write_bytes(content)
    fault = 'does not exist' if content is None else 'cannot be read as an image'
    with pytest.raises(InputError, match=f'^image {re.escape(str(path))} {fault}$'):
        read_image(path)
