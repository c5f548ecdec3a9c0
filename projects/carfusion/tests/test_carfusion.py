# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
from mmpose.registry import DATASETS

TOOL = 'dataset_converters/carfusion_to_coco.py'


@pytest.fixture
def frame(tmp_path):
    """Writes an 80 x 60 image, and the text files that are given."""

    def write(name='train/car_a/1', **texts):
        camera, stem = (tmp_path / name).parent, (tmp_path / name).name
        for folder in ('images', 'gt'):
            (camera / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(camera / f'images/{stem}.jpg'), np.zeros((60, 80, 3), np.uint8))
        for folder, text in texts.items():
            (camera / folder).mkdir(exist_ok=True)
            (camera / folder / f'{stem}.txt').write_text(text)

    return write


@pytest.fixture
def convert(run_tool, tmp_path):
    """Runs the tool on the train split and returns its annotations."""

    def convert(*args):
        assert run_tool(TOOL, tmp_path, '--splits', 'train', *args) is None
        return json.loads((tmp_path / 'annotations/car_keypoints_train.json').read_text())

    return convert


def test_a_car_becomes_an_annotation(frame, convert):
    frame(
        gt='10.5, 20, 1, 7, 1\n30, 25, 14, 7, 2\n12 40 3 7 3\n\n',
        bb='5, 6, 45, 56, 7\n',
    )
    found = convert()
    (image,), (car,) = found['images'], found['annotations']
    assert image == dict(id=1, file_name='train/car_a/images/1.jpg', width=80, height=60)
    labels = np.reshape(car.pop('keypoints'), (14, 3))
    np.testing.assert_array_equal(labels[[0, 2, 13]], [[10.5, 20, 2], [12, 40, 1], [30, 25, 1]])
    assert np.delete(labels, [0, 2, 13], 0).sum() == 0
    expected = dict(id=1, image_id=1, category_id=1, iscrowd=0, num_keypoints=3)
    assert car == expected | dict(bbox=[5, 6, 40, 50], area=2000)
    (category,) = found['categories']
    assert (category['name'], category['keypoints'][13]) == ('car', 'center')


def test_without_bb_the_box_surrounds_the_keypoints_inside_the_image(frame, convert):
    frame(gt='10, 20, 1, 1, 1\n30, 25, 2, 1, 1')
    frame('train/car_a/2', gt='1, 20, 1, 1, 1\n79, 20, 2, 1, 1')
    boxes = [car['bbox'] for car in convert()['annotations']]
    np.testing.assert_allclose(boxes, [[8, 18, 24, 9], [0, 12.2, 80, 15.6]])


def test_what_there_is_and_what_is_left_out_is_counted(frame, convert, tmp_path, capsys):
    frame(gt='10, 20, 1, 1, 1\n30, 25, 2, 1, 1\n9, 9, 3, 2, 1\n', bb='1 2 3 4 5\n')
    frame('train/car_a/2', gt='')
    frame('train/car_b/1')
    found = convert()
    assert [car['num_keypoints'] for car in found['annotations']] == [2, 0]
    assert len(found['images']) == 2
    assert capsys.readouterr().out.splitlines() == [
        f'{tmp_path}/annotations/car_keypoints_train.json: 2 cameras, 2 images, 2 cars, 1 of them '
        'without keypoints, 2 keypoints, 1 boxes around keypoints, 1 boxes of bb; left out: 1 cars '
        'without a box, 1 images without a gt file',
        f'Next: kapao train configs/kapao/kapao_s_carfusion.py --cfg-options data_root={tmp_path}',
    ]


@pytest.mark.slow
def test_both_splits_are_written(frame, run_tool, tmp_path):
    for split in ('train', 'test'):
        frame(f'{split}/car_a/1', gt='10, 20, 1, 1, 1\n30, 25, 2, 1, 1')
    assert run_tool(TOOL, tmp_path) is None
    for split in ('train', 'test'):
        dataset = DATASETS.build(
            dict(
                type='KeypointDataset',
                metainfo=dict(from_file='configs/_base_/datasets/carfusion.py'),
                data_root=str(tmp_path),
                ann_file=f'annotations/car_keypoints_{split}.json',
                pipeline=[dict(type='CheckedLoadImage')],
            )
        )
        assert dataset[0]['img'].shape == (60, 80, 3)
        np.testing.assert_array_equal(dataset[0]['keypoints_visible'], [[1, 1] + [0] * 12])


@pytest.mark.parametrize(
    ('texts', 'place', 'message'),
    [
        (dict(gt='1, 2, 3, 4, 1\n1, 2, 3, 4\n'), 'gt/1.txt, line 2', "'1, 2, 3, 4' is not 5 num"),
        (dict(gt='1, 2, x, 4, 1\n'), 'gt/1.txt, line 1', 'is not 5 numbers'),
        (dict(gt='1, nan, 3, 4, 1\n'), 'gt/1.txt, line 1', 'is not 5 numbers'),
        (dict(gt='1, 2, 0, 4, 1\n'), 'gt/1.txt, line 1', 'keypoint 0 is not from 1 to 14'),
        (dict(gt='\n1, 2, 15, 4, 1\n'), 'gt/1.txt, line 2', 'keypoint 15 is not from 1 to 14'),
        (dict(gt='1, 2, 1.5, 4, 1\n'), 'gt/1.txt, line 1', 'keypoint 1.5 is not a whole number'),
        (dict(gt='1, 2, 3, 4.5, 1\n'), 'gt/1.txt, line 1', 'car 4.5 is not a whole number'),
        (dict(gt='1, 2, 3, 4, 0\n'), 'gt/1.txt, line 1', 'visibility 0 is not 1, 2 or 3'),
        (dict(gt='1 2 3 4 1\n1 2 3 4 1\n'), 'gt/1.txt, line 2', 'car 4 has keypoint 3 twice'),
        (dict(gt='', bb='1 2 3 4 5\n1 2 3 4 5'), 'bb/1.txt, line 2', 'car 5 has two boxes'),
        (dict(gt='', bb='5 2 5 4 5'), 'bb/1.txt, line 1', 'of car 5 has no area'),
    ],
)
def test_a_row_of_another_form_is_named(frame, run_tool, tmp_path, texts, place, message):
    frame(**texts)
    found = run_tool(TOOL, tmp_path)
    assert found.startswith(f'error: {tmp_path}/train/car_a/{place}: ')
    assert message in found
    assert not (tmp_path / 'annotations').exists()


@pytest.mark.parametrize('folder', ['gt', 'bb'])
def test_a_text_file_without_an_image_is_named(frame, run_tool, tmp_path, folder):
    frame(gt='')
    (tmp_path / 'train/car_a' / folder).mkdir(exist_ok=True)
    path = tmp_path / f'train/car_a/{folder}/8.txt'
    path.write_text('')
    image = tmp_path / 'train/car_a/images/8.jpg'
    assert run_tool(TOOL, tmp_path) == f'error: {path} has no image {image}'


def test_files_and_folders_that_are_missing_or_broken_are_named(frame, run_tool, tmp_path):
    message = run_tool(TOOL, tmp_path)
    assert message.startswith(f'error: {tmp_path}/train has no folders of cameras')
    (tmp_path / 'train/car_a').mkdir(parents=True)
    assert run_tool(TOOL, tmp_path) == f"error: {tmp_path}/train/car_a has no folder 'images'"
    frame(gt='')
    image = tmp_path / 'train/car_a/images/1.jpg'
    image.write_bytes(b'no image')
    assert run_tool(TOOL, tmp_path) == f'error: image {image} cannot be read as an image'
