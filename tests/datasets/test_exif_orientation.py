# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""All paths show a JPEG turned by its EXIF orientation alike, and labels fit the shown image."""

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose
from mmpose.registry import DATASETS
from PIL import Image

from kapao_mm.datasets.annotations.image_sizes import find_image_faults
from kapao_mm.errors import InputError
from kapao_mm.functional.pixels import as_bgr
from kapao_mm.media.inputs import open_inputs
from kapao_mm.utils.image_files import read_image

WIDTH, HEIGHT = 48, 64  # as shown, px
SPOT = (36, 12)  # x, y of a white spot in the shown image
TURNS = {  # EXIF orientation -> how the shown image is stored
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOAD = dict(type='CheckedLoadImage')
MOSAIC = dict(
    type='MosaicScaleTranslate',
    input_size=64,
    scale_range=(0.8, 1.2),
    max_shift=0.1,
    pre_transform=[LOAD],
)
LETTERBOX = dict(type='Letterbox', input_size=128, move_labels=True)
PIPELINES = dict(
    training=dict(pipeline=[LOAD, LETTERBOX]),
    mosaic=dict(pipeline=[LOAD, MOSAIC]),
    cached_mosaic=dict(pipeline=[LOAD, MOSAIC], image_cache='ram'),
    cached=dict(pipeline=[LOAD, LETTERBOX], image_cache='ram'),
    testing=dict(pipeline=[LOAD, LETTERBOX], test_mode=True),
)


@pytest.fixture
def photo(request, tmp_path) -> Path:
    """A photo with a white spot, stored as the orientation says."""
    pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    cv2.circle(pixels, SPOT, 5, (255, 255, 255), -1)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = request.param
    turn = TURNS[request.param]
    path = tmp_path / 'photo.jpg'
    (image if turn is None else image.transpose(turn)).save(path, exif=exif, quality=95)
    return path


@pytest.fixture
def build(photo, triples):
    """Makes a function that builds a dataset of the photo, with a person whose top is the spot."""

    def build(size=(WIDTH, HEIGHT), **options):
        image = dict(id=1, file_name=photo.name, width=size[0], height=size[1])
        person = dict(id=1, image_id=1, category_id=1, bbox=[8, 4, 36, 48], area=900)
        person |= dict(keypoints=[*SPOT, 2, 0, 0, 0, 0, 0, 0], iscrowd=0, num_keypoints=1)
        content = dict(images=[image], annotations=[person], categories=[dict(id=1, name='a')])
        path = photo.with_name('a.json')
        path.write_text(json.dumps(content))
        config = dict(type='KeypointDataset', metainfo=triples, ann_file=str(path))
        return DATASETS.build(config | dict(data_prefix=dict(img=str(photo.parent))) | options)

    return build


def is_spot(image: np.ndarray, x: float, y: float) -> bool:
    return image[round(y), round(x)].min() > 200


@pytest.mark.parametrize('path', PIPELINES)
@pytest.mark.parametrize('photo', [1, 3, 6], indirect=True)
def test_labels_of_a_dataset_are_on_the_shown_image(build, path):
    dataset, found = build(**PIPELINES[path]), 0
    for _ in range(20):
        sample = dataset[0]
        size = np.array(sample['img'].shape[1::-1])
        visible = np.reshape(sample['keypoints_visible'], (*sample['keypoints'].shape[:2], -1))
        for point in sample['keypoints'][visible[..., 0] > 0]:
            if ((point > 2) & (point < size - 2)).all():  # a mosaic may cut it off
                assert is_spot(sample['img'], *point)
                found += 1
    assert found


@pytest.mark.slow
@pytest.mark.parametrize('photo', [1, 6], indirect=True)
def test_size_as_stored_is_told_from_size_as_shown(build, photo):
    with Image.open(photo) as image:
        is_turned = image.size != (WIDTH, HEIGHT)
    for image_cache in (None, 'ram'):
        with pytest.raises(InputError, match=r'is 48 x 64 px, .* say 64 x 48 \(exchanged') as error:
            build((HEIGHT, WIDTH), pipeline=[LOAD], image_cache=image_cache)[0]
        assert ('its EXIF orientation turns it' in str(error.value)) == is_turned
    image = dict(id=1, file_name=photo.name, width=WIDTH, height=HEIGHT)
    assert not find_image_faults([image], str(photo.parent))
    (fault,) = find_image_faults([image | dict(width=HEIGHT, height=WIDTH)], str(photo.parent))
    assert 'rotated by EXIF' in fault.remedy


def read_with(photo, **options):
    return Compose([dict(LOAD, **options)])(dict(img_path=str(photo)))['img']


def read_input(inputs):
    """Reads the first image as prediction does."""
    (source,) = open_inputs(inputs)
    return next(iter(source)).pixels


READERS = dict(
    file=read_image,
    pipeline=read_with,
    pillow=partial(read_with, imdecode_backend='pillow'),
    gray=partial(read_with, color_type='grayscale'),
    unchanged=partial(read_with, color_type='unchanged'),
    unchanged_pillow=partial(read_with, color_type='unchanged', imdecode_backend='pillow'),
    demo_path=lambda photo: read_input(str(photo)),
    demo_folder=lambda photo: read_input(photo.parent),
    demo_pil=lambda photo: read_input([Image.open(photo)]),
    pil=lambda photo: as_bgr(Image.open(photo)),
)


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('photo', TURNS, indirect=True)
def test_every_reader_gives_the_image_as_shown(photo, reader):
    pixels = READERS[reader](photo)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert is_spot(pixels, *SPOT) and not is_spot(pixels, WIDTH - SPOT[0], HEIGHT - SPOT[1])
