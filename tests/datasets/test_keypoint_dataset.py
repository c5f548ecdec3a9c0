# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpose.evaluation import CocoMetric
from mmpose.registry import DATASETS

from kapao_mm.errors import InputError

K = 3
LABELED = [10, 10, 2, 5, 20, 1, 15, 20, 2]


def person(number: int, image: int, bbox=(5, 5, 20, 30), keypoints=LABELED, **more) -> dict:
    return dict(
        id=number,
        image_id=image,
        category_id=1,
        bbox=list(bbox),
        keypoints=list(keypoints),
        num_keypoints=sum(v > 0 for v in keypoints[2::3]),
        area=300,
        iscrowd=0,
        segmentation=[[0, 0, 1, 1, 2, 2]],
        **more,
    )


@pytest.fixture
def build(tmp_path, triples):
    """Makes a function that builds a dataset with annotations of two images, 40 x 50 px."""
    (tmp_path / 'images').mkdir()
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f'images/{number}.png'), np.zeros((50, 40, 3), np.uint8))

    def build(annotations: list[dict], **options):
        images = [dict(id=i, file_name=f'{i}.png', width=40, height=50) for i in (1, 2)]
        content = dict(
            images=images, annotations=annotations, categories=[dict(id=1, name='person')]
        )
        (tmp_path / 'a.json').write_text(json.dumps(content))
        config = dict(
            type='KeypointDataset',
            metainfo=triples,
            data_root=str(tmp_path),
            ann_file='a.json',
            data_prefix=dict(img='images'),
        )
        return DATASETS.build(config | options)

    return build


@pytest.mark.slow
def test_training_keeps_images_without_people(build):
    dataset = build([person(1, 1)])
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [1, 2]
    empty = dataset.get_data_info(1)
    shapes = dict(
        bbox=(0, 4),
        bbox_score=(0,),
        category_id=(0,),
        keypoints=(0, K, 2),
        keypoints_visible=(0, K),
    )
    full = dataset.get_data_info(0)
    for key, shape in shapes.items():
        assert empty[key].shape == shape
        assert full[key].shape == (1, *shape[1:])
        assert full[key].dtype == empty[key].dtype


@pytest.mark.slow
def test_training_keeps_people_without_labeled_keypoints(build, log):
    info = build([person(1, 1), person(2, 1, keypoints=[0] * 9)]).get_data_info(0)
    assert len(info['bbox']) == 2
    np.testing.assert_array_equal(info['keypoints_visible'], [[1, 1, 1], [0, 0, 0]])
    assert '2 instances, 1 of them without labeled keypoints; left out: nothing' in log.text


@pytest.mark.slow
def test_training_logs_the_numbers_of_omitted_annotations(build, log):
    crowd = person(2, 1) | dict(iscrowd=1)
    outside, flat = person(3, 1, bbox=(40, 5, 9, 9)), person(4, 1, bbox=(5, 5, 0, 9))
    dataset = build([person(1, 1), crowd, outside, flat])
    assert len(dataset.get_data_info(0)['bbox']) == 1
    assert 'left out: 1 crowd regions, 2 boxes without area inside the image' in log.text


@pytest.mark.slow
def test_training_clips_boxes_to_the_image(build):
    boxes = build([person(1, 1, bbox=(-5, -5, 100, 100))]).get_data_info(0)['bbox']
    np.testing.assert_array_equal(boxes, [[0, 0, 40, 50]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('option', 'expected'),
    [
        ({}, [[-3, 60], [5, 20], [0, 0]]),
        ({'keypoints_outside': 'clip'}, [[0, 50], [5, 20], [0, 0]]),
    ],
)
def test_keypoints_outside_the_image_are_kept_or_clipped(build, option, expected):
    info = build([person(1, 1, keypoints=[-3, 60, 2, 5, 20, 1, 0, 0, 0])], **option)
    info = info.get_data_info(0)
    np.testing.assert_array_equal(info['keypoints'][0], expected)
    np.testing.assert_array_equal(info['keypoints_visible'][0], [1, 1, 0])
    assert info['keypoints'].dtype == np.float32


@pytest.mark.slow
def test_training_samples_have_only_the_needed_keys(build):
    info = build([person(1, 1)]).get_data_info(0)
    assert not {'segmentation', 'raw_ann_info', 'invalid_segs', 'id', 'iscrowd'} & info.keys()


@pytest.mark.slow
def test_test_samples_are_those_of_mmpose(build):
    options = dict(test_mode=True)
    annotations = [person(1, 1), person(2, 1) | dict(iscrowd=1)]
    for annotation in annotations:
        annotation['segmentation'] = None  # not in our samples
    ours = build(annotations, **options)
    theirs = build(annotations, type='BaseCocoStyleDataset', data_mode='bottomup', **options)
    assert len(ours) == len(theirs) == 2
    for i in range(2):
        a, b = ours.get_data_info(i), theirs.get_data_info(i)
        assert a.pop('annotated_size') == (40, 50) and a.pop('size_check')
        assert a.keys() == b.keys()
        assert not np.any(a.get('category_id'))  # index of the category, not the file's id
        for key in a.keys() - {'category_id'}:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.slow
@pytest.mark.parametrize('test_mode', [False, True])
def test_each_category_has_its_own_keypoint_types(build, triples, tmp_path, test_mode):
    pair = triples | dict(
        keypoint_info={0: dict(name='a'), 1: dict(name='b')}, joint_weights=[1] * 2, sigmas=[1] * 2
    )
    both = dict(dataset_name='both', categories=dict(car=pair, person=triples))
    car = person(7, 1, keypoints=[1, 2, 2, 3, 4, 1]) | dict(category_id=9)
    build([])
    content = json.loads((tmp_path / 'a.json').read_text())
    content['annotations'] = [person(1, 1), car]
    content['categories'] += [dict(id=9, name='car')]
    (tmp_path / 'b.json').write_text(json.dumps(content))
    dataset = build([], metainfo=both, ann_file='b.json', test_mode=test_mode)
    info = dataset.get_data_info(0)
    assert info['category_id'].tolist() == [1, 0]
    expected = [[[0, 0], [0, 0], [10, 10], [5, 20], [15, 20]], [[1, 2], [3, 4]] + [[0, 0]] * 3]
    np.testing.assert_array_equal(info['keypoints'], expected)
    np.testing.assert_array_equal(info['keypoints_visible'], [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
    if not test_mode:
        empty = dataset.get_data_info(1)
        assert empty['keypoints'].shape == (0, 5, 2)


@pytest.mark.parametrize('test_mode', [False, True])
def test_category_without_keypoints_has_boxes_only(build, triples, tmp_path, test_mode):
    both = dict(dataset_name='both', categories=dict(person=triples, ball={}))
    build([])
    content = json.loads((tmp_path / 'a.json').read_text())
    ball = dict(id=7, image_id=1, category_id=9, bbox=[2, 3, 10, 10])
    content['annotations'] = [person(1, 1), ball]
    content['categories'] += [dict(id=9, name='ball')]
    (tmp_path / 'b.json').write_text(json.dumps(content))
    dataset = build([], metainfo=both, ann_file='b.json', test_mode=test_mode)
    info = dataset.get_data_info(0)
    assert info['category_id'].tolist() == [0, 1]
    assert info['bbox'][1].tolist() == [2, 3, 12, 13]
    assert info['keypoints'].shape == (2, 3, 2) and not info['keypoints'][1].any()
    assert info['keypoints_visible'].tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.slow
def test_metric_uses_the_annotation_file_of_its_dataset(build):
    dataset = build([person(1, 1), person(2, 1, bbox=(0, 0, 9, 9))], test_mode=True)
    metric = CocoMetric(score_mode='bbox', nms_mode='none')
    metric.dataset_meta = dataset.metainfo
    assert sorted(metric.coco.anns) == [1, 2]


@pytest.mark.parametrize(
    ('options', 'name', 'path'),
    [
        (dict(data_root='{root}/nowhere'), 'data root', '{root}/nowhere'),
        (dict(ann_file='b.json'), 'annotation file', '{root}/b.json'),
        (dict(data_prefix=dict(img='pictures')), 'image folder', '{root}/pictures'),
    ],
)
def test_missing_data_is_reported_with_path_and_option(build, tmp_path, options, name, path):
    options = {k: v.format(root=tmp_path) if k == 'data_root' else v for k, v in options.items()}
    message = f'{name} {path.format(root=tmp_path)} does not exist.*--cfg-options data_root='
    with pytest.raises(InputError, match=message):
        build([person(1, 1)], **options)


def test_relative_data_root_is_reported_as_absolute_path(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f'data root {tmp_path}/data/coco does not exist'):
        build([person(1, 1)], data_root='data/coco')


@pytest.mark.slow
def test_metainfo_of_mmpose_is_found_from_any_folder(build, recwarn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metainfo = dict(from_file='configs/_base_/datasets/coco.py')
    dataset = build([], metainfo=metainfo)
    assert dataset.metainfo['num_keypoints'] == 17
    assert not [w for w in recwarn if 'metainfo' in str(w.message)]


def test_unknown_option_is_refused(build):
    with pytest.raises(InputError, match="'keep' or 'clip', not 'drop'"):
        build([], keypoints_outside='drop')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('metainfo', 'ann_file', 'count'),
    [
        ('coco', 'coco_subset/annotations/person_keypoints_train.json', 160),
        ('crowdpose', 'crowdpose_sample/test_crowdpose.json', 2),
        ('ap10k', 'ap10k_sample/test_ap10k.json', 2),
    ],
)
@pytest.mark.parametrize('test_mode', [False, True])
def test_real_files_load(shared_dir: Path, metainfo, ann_file, count, test_mode):
    dataset = DATASETS.build(
        dict(
            type='KeypointDataset',
            metainfo=dict(from_file=f'configs/_base_/datasets/{metainfo}.py'),
            ann_file=str(shared_dir / 'data' / ann_file),
            test_mode=test_mode,
        )
    )
    assert len(dataset) == count


def test_sides_of_training_boxes_are_relative_to_their_images(build):
    crowd = person(3, 2) | dict(iscrowd=1)
    dataset = build([person(1, 1, bbox=(5, 5, 20, 30)), person(2, 2, bbox=(30, 5, 99, 5)), crowd])
    np.testing.assert_allclose(dataset.relative_sides, [[0.4, 0.6], [0.2, 0.1]])
    assert build([], test_mode=False).relative_sides.shape == (0, 2)
