# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmpose.registry import DATASETS, MODELS
from PIL import Image

from kapao_mm.utils.config import load_config

REPO = Path(__file__).resolve().parents[3]
CONFIG = 'projects/carfusion/configs/kapao_s_carfusion.py'


@pytest.fixture
def converted(convert, tmp_path):
    """Makes a function that converts the training split and returns its annotations."""

    def read():
        assert convert('--splits', 'train') is None
        return json.loads((tmp_path / 'annotations/car_keypoints_train.json').read_text())

    return read


def test_a_car_becomes_an_annotation(frame, converted):
    frame(
        gt='10.5, 20, 1, 7, 1\n30, 25, 14, 7, 2\n12 40 3 7 3\n\n',
        bb='5, 6, 45, 56, 7\n',
    )
    found = converted()
    (image,), (car,) = found['images'], found['annotations']
    assert image == dict(id=1, file_name='train/car_a/images_jpg/1.jpg', width=80, height=60)
    labels = np.reshape(car.pop('keypoints'), (14, 3))
    np.testing.assert_array_equal(labels[[0, 2, 13]], [[10.5, 20, 2], [12, 40, 1], [30, 25, 1]])
    assert np.delete(labels, [0, 2, 13], 0).sum() == 0
    expected = dict(id=1, image_id=1, category_id=1, iscrowd=0, num_keypoints=3)
    assert car == expected | dict(bbox=[5, 6, 40, 50], area=2000)
    (category,) = found['categories']
    assert (category['name'], category['keypoints'][13]) == ('car', 'center')


def test_folder_of_images_may_have_the_shorter_name(frame, converted):
    frame(gt='10.5, 20, 1, 7, 1\n30, 25, 14, 7, 2\n', images='images')
    assert converted()['images'][0]['file_name'] == 'train/car_a/images/1.jpg'


def test_box_surrounds_the_keypoints_inside_the_image_if_none_is_given(frame, converted):
    frame(gt='10, 20, 1, 1, 1\n30, 25, 2, 1, 1')
    frame('train/car_a/2', gt='1, 20, 1, 1, 1\n79, 20, 2, 1, 1')
    boxes = [car['bbox'] for car in converted()['annotations']]
    np.testing.assert_allclose(boxes, [[8, 18, 24, 9], [0, 12.2, 80, 15.6]])


def test_converted_and_omitted_data_are_counted(frame, converted, tmp_path, capsys):
    frame(gt='10, 20, 1, 1, 1\n30, 25, 2, 1, 1\n9, 9, 3, 2, 1\n', bb='1 2 3 4 5\n')
    frame('train/car_a/2', gt='')
    frame('train/car_b/1')
    found = converted()
    assert [car['num_keypoints'] for car in found['annotations']] == [2, 0]
    assert len(found['images']) == 2
    line, following = capsys.readouterr().out.splitlines()
    assert set(line.partition('json: ')[2].split(', ')) == {
        *('2 cameras', '2 images', '2 cars', '1 boxes around keypoints', '1 boxes of bb'),
        *('1 cars without a box (left out)', '1 images without a gt file (left out)'),
    }
    assert following == f'Next: kapao train {CONFIG} --cfg-options data_root={tmp_path}'


def test_config_loads_the_converted_splits(frame, convert, tmp_path, monkeypatch):
    for split in ('train', 'test'):
        frame(f'{split}/car_a/1', gt='10, 20, 1, 1, 1\n30, 25, 2, 1, 1')
    assert convert() is None
    monkeypatch.chdir(REPO)
    assert Config.fromfile(CONFIG).train_cfg.max_epochs == 70
    cfg = load_config(CONFIG, dict(data_root=str(tmp_path), input_size=64))
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        dataset = DATASETS.build({**loader.dataset, 'pipeline': []})
        visible = dataset.get_data_info(0)['keypoints_visible']
        np.testing.assert_array_equal(visible > 0, [[1, 1] + [0] * 12])
    assert MODELS.build(cfg.model.head).num_keypoints == dataset.metainfo['num_keypoints']


@pytest.mark.parametrize(
    ('texts', 'where', 'message'),
    [
        (dict(gt='1, 2, 3, 4, 1\n1, 2, 3, 4\n'), 'gt/1.txt, line 2', "'1, 2, 3, 4' is not 5 num"),
        (dict(gt='1, 2, x, 4, 1\n'), 'gt/1.txt, line 1', 'is not 5 numbers'),
        (dict(gt='1, nan, 3, 4, 1\n'), 'gt/1.txt, line 1', 'is not 5 numbers'),
        (dict(gt='1, 2, 0, 4, 1\n'), 'gt/1.txt, line 1', 'keypoint 0 is not from 1 to 14'),
        (dict(gt='\n1, 2, 15, 4, 1\n'), 'gt/1.txt, line 2', 'keypoint 15 is not from 1 to 14'),
        (dict(gt='1, 2, 1.5, 4, 1\n'), 'gt/1.txt, line 1', '1.5 is not a whole number'),
        (dict(gt='1, 2, 3, 4.5, 1\n'), 'gt/1.txt, line 1', '4.5 is not a whole number'),
        (dict(gt='1, 2, 3, 4, 0\n'), 'gt/1.txt, line 1', 'visibility 0 is not 1, 2 or 3'),
        (dict(gt='1 2 3 4 1\n1 2 3 4 1\n'), 'gt/1.txt, line 2', 'car 4 has keypoint 3 twice'),
        (dict(gt='', bb='1 2 3 4 5\n1 2 3 4 5'), 'bb/1.txt, line 2', 'car 5 has two boxes'),
        (dict(gt='', bb='5 2 5 4 5'), 'bb/1.txt, line 1', 'of car 5 has no area'),
    ],
)
def test_invalid_row_is_reported(frame, convert, tmp_path, texts, where, message):
    frame(**texts)
    found = convert()
    assert found.startswith(f'error: {tmp_path}/train/car_a/{where}: ')
    assert message in found
    assert not (tmp_path / 'annotations').exists()


@pytest.mark.parametrize('folder', ['gt', 'bb'])
def test_text_file_without_image_is_reported(frame, convert, tmp_path, folder):
    frame(gt='', bb='')
    path = tmp_path / f'train/car_a/{folder}/8.txt'
    path.write_text('')
    assert convert() == f'error: {path} has no image {tmp_path}/train/car_a/images_jpg/8.jpg'


def test_missing_folder_and_broken_image_are_reported(frame, convert, tmp_path):
    assert convert().startswith(f'error: {tmp_path}/train has no folders of cameras')
    (tmp_path / 'train/car_a').mkdir(parents=True)
    assert convert() == f"error: {tmp_path}/train/car_a has no folder 'images_jpg' or 'images'"
    frame(gt='')
    image = tmp_path / 'train/car_a/images_jpg/1.jpg'
    image.write_bytes(b'no image')
    assert convert() == f'error: image {image} cannot be read as an image'


def test_size_is_that_of_the_image_as_shown(frame, converted, tmp_path):
    frame(gt='10.5, 20, 1, 7, 1\n30, 25, 14, 7, 2\n')
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / 'train/car_a/images_jpg/1.jpg'
    Image.open(path).save(path, exif=exif)
    (image,) = converted()['images']
    assert (image['width'], image['height']) == (60, 80)
