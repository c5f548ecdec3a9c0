# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import io
import os
import re
import zlib
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr
from kapao_mm.utils import image_files
from kapao_mm.utils.image_files import (
    OutputNames,
    find_images,
    read_image,
    write_picture,
)


def write_image(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((90, 120, 3), 90, np.uint8) if image is None else image)
    return path


def test_output_names_are_unique_beside_numbered_images():
    names = OutputNames()
    images = [Path('x/a.jpg'), Path('y/a.jpg'), Path('a_2.jpg')]
    assert [names(image.stem, image) for image in images] == ['a', 'a_2', 'a_2_2']


def test_folders_and_patterns_are_sorted(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'deep/c.jpg'):
        write_image(tmp_path / name)
    (tmp_path / 'notes.txt').touch()
    assert [p.name for p in find_images([str(tmp_path)])] == ['a.PNG', 'b.jpg']
    found = find_images([str(tmp_path / '**/*.jpg')])
    assert [p.name for p in found] == ['b.jpg', 'c.jpg']


def test_image_with_brackets_in_its_name_is_found(tmp_path):
    image = write_image(tmp_path / 'a[1].jpg')
    assert list(find_images([str(image)])) == [image]


def rotated_jpeg(path: Path, image: np.ndarray, orientation: int) -> Path:
    """Writes a JPEG with an EXIF orientation."""
    entry = b'\x12\x01\x03\x00\x01\x00\x00\x00' + bytes([orientation, 0, 0, 0])
    exif = b'Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00' + entry + b'\x00\x00\x00\x00'
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    data = cv2.imencode('.jpg', image)[1].tobytes()
    path.write_bytes(data[:2] + segment + data[2:])
    return path


@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_exif_orientation_is_applied_as_by_mmpose(tmp_path, orientation):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = rotated_jpeg(tmp_path / 'a.jpg', image, orientation)
    read = read_image(path)
    assert read.shape == ((60, 40, 3) if orientation == 6 else (40, 60, 3))
    np.testing.assert_array_equal(read, mmcv.imread(path))


@pytest.mark.parametrize('shape', [(40, 60), (40, 60, 4)])
def test_gray_and_transparent_images_are_read_as_bgr(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = write_image(tmp_path / 'a.png', image)
    read = read_image(path)
    assert read.shape == (40, 60, 3) and read.dtype == np.uint8
    np.testing.assert_array_equal(read, mmcv.imread(path))
    np.testing.assert_array_equal(
        read, image[..., :3] if image.ndim == 3 else np.dstack([image] * 3)
    )


@pytest.mark.parametrize('content', [b'', b'no image', None])
def test_unreadable_image_is_reported_with_its_path(tmp_path, content):
    path = tmp_path / 'a.jpg'
    if content is not None:
        path.write_bytes(content)
    fault = 'does not exist' if content is None else 'cannot be read as an image'
    with pytest.raises(InputError, match=f'^image {re.escape(str(path))} {fault}$'):
        read_image(path)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('shape', [(40, 60), (40, 60, 3)])
def test_images_of_16_bits_are_scaled_to_8(tmp_path, suffix, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = write_image(tmp_path / f'a{suffix}', image.astype(np.uint16) * 257)
    expected = image if image.ndim == 3 else np.dstack([image] * 3)
    np.testing.assert_array_equal(read_image(path), expected)


def png_header(width: int, height: int) -> bytes:
    """Returns the first bytes of a gray PNG of any size."""
    size = b''.join(side.to_bytes(4, 'big') for side in (width, height))
    header = b'IHDR' + size + bytes([8, 0, 0, 0, 0])
    chunks = [header, b'IDAT' + zlib.compress(bytes(1000))]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        (len(chunk) - 4).to_bytes(4, 'big') + chunk + zlib.crc32(chunk).to_bytes(4, 'big')
        for chunk in chunks
    )


def test_decompression_bombs_are_refused_by_their_header(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files.cv2, 'imdecode', lambda *args: pytest.fail('was decoded'))
    path = tmp_path / 'a.png'
    path.write_bytes(png_header(20000, 10000))
    with pytest.raises(InputError, match=r'a\.png has more than 178,956,970 px'):
        read_image(path)


def test_pipes_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    (tmp_path / 'b.jpg').mkdir()
    for name in ('a.jpg', 'b.jpg'):
        with pytest.raises(InputError, match=f'{name} cannot be read as an image: it is not a'):
            read_image(tmp_path / name)


def test_images_in_a_link_loop_are_found_once(tmp_path):
    write_image(tmp_path / 'x/a.jpg')
    (tmp_path / 'x/loop').symlink_to('..')
    assert list(find_images([str(tmp_path / '**/*.jpg')])) == [tmp_path / 'x/a.jpg']


def test_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'iterdir', refuse)
    (error,) = find_images([str(tmp_path)])
    assert isinstance(error, InputError) and 'Permission denied' in str(error)


def test_overlong_name_is_an_error():
    (error,) = find_images(['a' * 5000])
    assert isinstance(error, InputError)


def test_output_names_are_stable_and_long_ones_are_cut():
    names = OutputNames()
    assert [names('a', 1), names('a', 2), names('a', 1)] == ['a', 'a_2', 'a']
    long = ['ä' * 125, 'ä' * 124 + 'b']
    found = [names(name, name) for name in long]
    assert found == ['ä' * 120, 'ä' * 120 + '_2']


def test_picture_that_is_too_large_for_jpeg_is_written_as_png(tmp_path):
    picture = np.zeros((1, 65501, 3), np.uint8)
    assert write_picture(picture, tmp_path / 'a.jpg') == tmp_path / 'a.png'
    assert cv2.imread(str(tmp_path / 'a.png')).shape == picture.shape
    with pytest.raises(InputError, match=r'a\.nothing cannot be written'):
        write_picture(picture, tmp_path / 'a.nothing')
    assert os.listdir(tmp_path) == ['a.png']


def test_full_disk_leaves_no_partial_picture(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', fail)
    with pytest.raises(InputError, match='a.jpg cannot be written: No space left'):
        write_picture(np.zeros((9, 9, 3), np.uint8), tmp_path / 'a.jpg')
    assert os.listdir(tmp_path) == []


def test_files_arrays_and_pil_images_of_16_bits_are_equal(tmp_path):
    gray = np.random.default_rng(0).integers(0, 65536, (40, 60), np.uint16)
    path = write_image(tmp_path / 'a.png', gray)
    expected = read_image(path)
    np.testing.assert_array_equal(as_bgr(Image.open(io.BytesIO(path.read_bytes()))), expected)
    np.testing.assert_array_equal(as_bgr(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)), expected)
