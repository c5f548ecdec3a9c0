# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpose.registry import DATASETS

from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config

WIDTH, HEIGHT = 40, 50
SWAPS = dict(left='right', right='left')
LABELS = dict(
    head=['top', 'left', 'right'],
    pair=['left', 'right'],
    turned=['tail', 'right', 'left'],
)
LOAD = dict(type='CheckedLoadImage')


def metainfo(name):
    count = len(LABELS[name])
    return dict(
        dataset_name=name,
        keypoint_info={i: dict(name=k, swap=SWAPS.get(k, '')) for i, k in enumerate(LABELS[name])},
        skeleton_info={},
        joint_weights=[1.0] * count,
        sigmas=[0.05] * count,
    )


def converter(*mapping, num_keypoints=3):
    return dict(type='KeypointConverter', num_keypoints=num_keypoints, mapping=list(mapping))


@pytest.fixture
def subset(tmp_path):
    """Makes a function that writes two images, one without people; keypoint k is at (5 + k, 10)."""

    def make(name, *pipeline, visible=2, **options):
        (tmp_path / name).mkdir(exist_ok=True)
        images = []
        for i in (1, 2):
            cv2.imwrite(str(tmp_path / f'{name}/{i}.png'), np.full((HEIGHT, WIDTH, 3), i, np.uint8))
            images.append(dict(id=i, file_name=f'{i}.png', width=WIDTH, height=HEIGHT))
        keypoints = [value for k in range(len(LABELS[name])) for value in (5 + k, 10, visible)]
        person = dict(id=1, image_id=1, category_id=1, bbox=[2, 2, 30, 30], keypoints=keypoints)
        categories = [dict(id=1, name=name)]
        content = dict(images=images, annotations=[person], categories=categories)
        (tmp_path / f'{name}/a.json').write_text(json.dumps(content))
        config = dict(
            type='KeypointDataset',
            metainfo=metainfo(name),
            data_root=str(tmp_path / name),
            ann_file='a.json',
            pipeline=list(pipeline),
        )
        return config | options

    return make


def build(*datasets, **options):
    config = dict(type='CombinedKeypointDataset', metainfo=metainfo('head'), datasets=datasets)
    return DATASETS.build(config | options)


@pytest.mark.slow
def test_keypoints_have_the_order_of_the_combined_metainfo(subset):
    dataset = build(subset('head'), subset('turned', converter((2, 1), (1, 2))))
    assert dataset.metainfo['num_keypoints'] == 3
    assert len(dataset) == 4
    infos = [dataset.get_data_info(i) for i in range(4)]
    np.testing.assert_array_equal(infos[0]['keypoints'], [[[5, 10], [6, 10], [7, 10]]])
    np.testing.assert_array_equal(infos[2]['keypoints'], [[[0, 0], [7, 10], [6, 10]]])
    np.testing.assert_array_equal(infos[2]['keypoints_visible'], [[0, 1, 1]])
    for info in infos:
        assert info['keypoints'].dtype == info['keypoints_visible'].dtype == np.float32
        assert info['flip_indices'] == [0, 2, 1]
        assert info['dataset_name'] == 'head'
    assert [len(info['keypoints']) for info in infos] == [1, 0, 1, 0]


@pytest.mark.parametrize('visible', [0, 2])
def test_keypoint_between_two_others_needs_both_labels(subset, visible):
    """The combined dataset has more keypoints, for which MMPose fails at left/right pairs."""
    made = converter((0, 1), (1, 2), ((0, 1), 0))
    dataset = build(subset('pair', made, visible=visible))
    full, empty = (dataset.get_data_info(i) for i in range(2))
    np.testing.assert_array_equal(full['keypoints'], [[[5.5, 10], [5, 10], [6, 10]]])
    np.testing.assert_array_equal(full['keypoints_visible'], [[visible > 0] * 3])
    assert empty['keypoints'].shape == (0, 3, 2)
    assert empty['keypoints_visible'].shape == (0, 3)


def test_flips_swap_the_pairs_of_the_combined_metainfo(subset):
    turned = subset('turned', converter((2, 1), (1, 2)))
    pipeline = [LOAD, dict(type='HorizontalFlip', prob=1)]
    found = build(turned, pipeline=pipeline)[0]
    np.testing.assert_array_equal(found['keypoints'][0, 1:], [[WIDTH - 6, 10], [WIDTH - 7, 10]])
    np.testing.assert_array_equal(found['keypoints_visible'], [[0, 1, 1]])


@pytest.mark.slow
def test_mosaic_mixes_datasets(subset):
    mosaic = dict(type='TracedMosaic', img_scale=(64, 64), pre_transform=[LOAD])
    turned = subset('turned', converter((2, 1), (1, 2)))
    dataset = build(subset('head'), turned, pipeline=[LOAD, mosaic])
    np.random.seed(0)
    samples = [dataset[i % 4] for i in range(12)]
    folders = [{Path(path).parent.name for path in s['mosaic_paths']} for s in samples]
    assert {'head', 'turned'} in folders
    for sample in samples:
        assert sample['keypoints'].shape == (len(sample['bbox']), 3, 2)
        assert sample['keypoints_visible'].shape == (len(sample['bbox']), 3)


@pytest.mark.slow
def test_ratio_of_the_datasets_can_be_set(subset):
    turned = subset('turned', converter((2, 1), (1, 2)))
    dataset = build(subset('head'), turned, sample_ratio_factor=[0.5, 3])
    assert dataset.lens == [1, 6]
    paths = [dataset.get_data_info(i)['img_path'] for i in range(7)]
    assert ['head' in path for path in paths] == [True] + [False] * 6


@pytest.mark.slow
def test_image_cache_is_passed_to_each_dataset(subset):
    configs = subset('head'), subset('turned', converter((2, 1), (1, 2)))
    plain, cached = (
        build(*configs, pipeline=[LOAD]),
        build(*configs, pipeline=[LOAD], image_cache='ram'),
    )
    assert 'img' in cached.get_data_info(2)
    for i in range(4):
        np.testing.assert_array_equal(plain[i]['img'], cached[i]['img'])
        np.testing.assert_array_equal(plain[i]['keypoints'], cached[i]['keypoints'])


@pytest.mark.slow
def test_datasets_of_several_categories_need_no_converter(subset):
    both = dict(dataset_name='both', categories={name: metainfo(name) for name in ('head', 'pair')})
    dataset = build(*(subset(name, metainfo=both) for name in ('head', 'pair')), metainfo=both)
    infos = [dataset.get_data_info(i) for i in (0, 2)]
    assert [info['category_id'].tolist() for info in infos] == [[0], [1]]
    np.testing.assert_array_equal(infos[0]['keypoints_visible'], [[1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(infos[1]['keypoints_visible'], [[0, 0, 0, 1, 1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        ([], r'has the 3 keypoints of turned, not those of head: give it pipeline=.*Converter'),
        ([converter((0, 0), num_keypoints=4)], r'makes 4 keypoints, head has 3'),
        ([converter((3, 0))], r'mapping \(3, 0\): turned has no keypoint 3, only 0 to 2'),
        ([converter(((0, 3), 0))], r'mapping \(\(0, 3\), 0\): turned has no keypoint 3'),
        ([converter((-1, 0))], r'mapping \(-1, 0\): turned has no keypoint -1'),
        ([converter((0, 3))], r'mapping \(0, 3\): head has no keypoint 3, only 0 to 2'),
        ([converter((0, 1), (2, 1))], r'mapping \(2, 1\): keypoint 1 is mapped twice'),
        ([converter((0, 0)), LOAD], r'its pipeline may contain one KeypointConverter'),
    ],
)
def test_dataset_with_other_keypoints_is_refused(subset, tmp_path, pipeline, message):
    name = rf'datasets\[1\] \({tmp_path}/turned/a.json\)'
    with pytest.raises(InputError, match=f'^{name}.*{message}'):
        build(subset('head'), subset('turned', *pipeline))


def test_converter_is_refused_with_several_categories(subset):
    both = dict(dataset_name='both', categories={name: metainfo(name) for name in ('head', 'pair')})
    made = converter((0, 3), (1, 4), num_keypoints=5)
    with pytest.raises(InputError, match='KeypointConverter works with a single category only'):
        build(subset('pair', made), metainfo=both)


@pytest.mark.parametrize('options', [dict(test_mode=True), dict(type='BaseCocoStyleDataset')])
def test_only_training_datasets_can_be_combined(subset, options):
    with pytest.raises(InputError, match=r'datasets\[0\] .*only KeypointDatasets can be combined'):
        build(subset('head', **options))


@pytest.mark.parametrize('factors', [[1], [1, -1]])
def test_each_dataset_needs_a_ratio(subset, factors):
    with pytest.raises(InputError, match='one number of at least 0 for each of the 2 datasets'):
        build(subset('head'), subset('head'), sample_ratio_factor=factors)


@pytest.mark.slow
def test_people_of_crowdpose_get_the_keypoints_of_coco(repo, shared_dir):
    options = dict(
        data_root=str(shared_dir / 'data/coco_subset'),
        train_ann='annotations/person_keypoints_train.json',
        crowdpose_root=str(shared_dir / 'data/crowdpose_sample'),
        crowdpose_ann='test_crowdpose.json',
        crowdpose_img='',
        input_size=128,
    )
    cfg = load_config(repo / 'configs/kapao/kapao_s_coco_crowdpose.py', options)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert dataset.lens == [160, 2]
    content = json.loads((shared_dir / 'data/crowdpose_sample/test_crowdpose.json').read_text())
    names = content['categories'][0]['keypoints']
    expected = np.array([ann['keypoints'] for ann in content['annotations']]).reshape(5, -1, 3)
    infos = [dataset.get_data_info(i) for i in (160, 161)]
    found = np.concatenate([info['keypoints'] for info in infos])
    visible = np.concatenate([info['keypoints_visible'] for info in infos])
    assert expected[:, names.index('left_shoulder'), 2].any()
    for name, index in dataset.metainfo['keypoint_name2id'].items():
        if name in names:
            x, y, label = expected[:, names.index(name)].T
            np.testing.assert_array_equal(visible[:, index], label > 0)
            np.testing.assert_allclose(found[:, index].T, [x, y], rtol=1e-6)
        else:
            assert name in ('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear')
            assert not visible[:, index].any()
    assert dataset[161]['data_samples'].gt_instance_labels.keypoints.shape[1:] == (17, 2)
