# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
from mmpose.registry import DATASETS

from kapao_mm.datasets import read_metainfo
from kapao_mm.utils.config import load_config

TOOL = 'dataset_converters/animalpose_to_coco.py'
LIMBS = [
    f'{s}_{e}_{part}'
    for part in ('elbow', 'knee', 'paw')
    for e in ('front', 'back')
    for s in ('left', 'right')
]
NAMES = [
    'left_eye',
    'right_eye',
    'nose',
    'left_ear',
    'right_ear',
    *LIMBS,
    'throat',
    'withers',
    'tailbase',
]  # in the order of the release
KEYPOINTS = [[10 + i, 20 + i, i % 2] for i in range(20)]


@pytest.fixture
def release(tmp_path):
    """Makes a function that writes a release with one dog in each of ten images."""

    def write(annotation=(), category=(), **changed):
        images = {str(i): f'{i}.jpg' for i in range(1, 11)}
        (tmp_path / 'images').mkdir()
        for name in images.values():
            cv2.imwrite(str(tmp_path / 'images' / name), np.zeros((60, 80, 3), np.uint8))
        dog = dict(bbox=[5, 6, 45, 56], keypoints=KEYPOINTS, num_keypoints=10, category_id=1)
        animals = [dog | dict(image_id=i) for i in range(1, 11)]
        animals[0] |= dict(annotation)
        categories = [
            dict(id=i, name=name, supercategory='animal', keypoints=NAMES, skeleton=[[0, 1]])
            | dict(category)
            for i, name in enumerate(('dog', 'cat'), 1)
        ]
        content = dict(images=images, annotations=animals, categories=categories) | changed
        (tmp_path / 'keypoints.json').write_text(json.dumps(content))
        return tmp_path

    return write


def read(root, part='train'):
    return json.loads((root / f'annotations/animalpose_{part}.json').read_text())


def test_animal_becomes_an_annotation_with_the_keypoints_of_mmpose(release, run_tool):
    root = release()
    assert run_tool(TOOL, root) is None
    found = read(root)
    animal = found['annotations'][0]
    assert (animal['bbox'], animal['num_keypoints']) == ([5, 6, 40, 50], 10)
    rows = np.reshape(animal['keypoints'], (20, 3))
    names = found['categories'][0]['keypoints']
    assert names == list(
        read_metainfo(dict(from_file='configs/_base_/datasets/animalpose.py'))['keypoint_name2id']
    )
    at = {name: rows[i].tolist() for i, name in enumerate(names)}
    assert at['R_Eye'] == [11, 21, 2]
    assert at['L_EarBase'] == [13, 23, 2]
    assert at['L_F_Elbow'] == [15, 25, 2]
    assert at['TailBase'] == [29, 39, 2]
    assert at['Nose'] == at['L_Eye'] == [0, 0, 0]
    assert [c['name'] for c in found['categories']] == ['dog', 'cat']


@pytest.mark.slow
def test_config_loads_the_files(release, run_tool, monkeypatch, repo, capsys):
    root = release()
    assert run_tool(TOOL, root) is None
    monkeypatch.chdir(repo)
    options = dict(data_root=str(root), input_size=64)
    cfg = load_config('configs/kapao/kapao_s_animalpose.py', options)
    lengths = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = DATASETS.build({**loader.dataset, 'pipeline': []})
        lengths.append(len(dataset))
        assert (dataset.get_data_info(0)['keypoints_visible'] > 0).sum() == 10
    assert lengths == [8, 2]
    assert (
        f'kapao train kapao_s_animalpose --cfg-options data_root={root}' in capsys.readouterr().out
    )


def test_files_can_go_elsewhere(release, run_tool, tmp_path, capsys):
    root = release()
    assert run_tool(TOOL, root, '--out', tmp_path / 'new') is None
    assert len(read(tmp_path / 'new', 'val')['images']) == 2
    assert not (root / 'annotations').exists()
    assert f'train_ann={tmp_path}/new/annotations/animalpose_train.json' in capsys.readouterr().out


def test_keypoints_may_be_one_list(release, run_tool):
    flat = [value for keypoint in KEYPOINTS for value in keypoint]
    root = release(dict(keypoints=flat))
    assert run_tool(TOOL, root) is None
    assert all(a['num_keypoints'] == 10 for a in read(root)['annotations'])


def test_box_without_an_area_is_left_out(release, run_tool, capsys):
    root = release(dict(bbox=[5, 6, 5, 56]))
    assert run_tool(TOOL, root) is None
    assert '10 images, 9 animals, 1 boxes without an area (left out)' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(annotation=dict(bbox=[1, 2, 3])), 'annotations[0]: bbox [1, 2, 3] is not x1, y1'),
        (dict(annotation=dict(keypoints=KEYPOINTS[1:])), 'keypoints are not 20 times x, y, 0 or 1'),
        (dict(annotation=dict(keypoints=[[1, 2, 2]] * 20)), 'neither 0 (not labeled) nor 1'),
        (dict(annotation=dict(image_id=77)), 'annotations[0]: image_id 77 is not in images'),
        (dict(annotation=dict(category_id=9)), 'category_id 9 is not in categories'),
        (dict(annotation=dict(category_id=[])), 'category_id [] is not in categories'),
        (dict(category=dict(keypoints=['nose'] * 20)), 'are not those of MMPose (L_Eye, R_Eye,'),
        (dict(category=dict(keypoints=None)), 'categories have no names of keypoints'),
        (dict(images=[]), 'is not keypoints.json of Animal-Pose'),
        (dict(images={'1': 'none.jpg'}), 'images/none.jpg does not exist'),
        (dict(annotations=3), 'is not keypoints.json of Animal-Pose'),
    ],
)
def test_file_of_another_form_is_refused_and_nothing_is_written(
    release, run_tool, changed, message
):
    root = release(**changed)
    found = run_tool(TOOL, root)
    assert found.startswith('error: ')
    assert message in found
    assert not (root / 'annotations').exists()
