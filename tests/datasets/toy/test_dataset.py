# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from kapao_mm.datasets.toy import KEYPOINTS, __main__, dataset
from kapao_mm.datasets.toy.scene import LEVELS
from kapao_mm.errors import InputError


def make(root: Path, level: str = 'easy', train: int = 3, val: int = 2, **kwargs) -> Path:
    return dataset.make_toy_dataset(root, level, train, val, image_size=(160, 120), **kwargs)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def annotations(root: Path) -> dict:
    return json.loads((root / 'annotations/person_keypoints_train.json').read_text())


def test_the_package_imports_neither_torch_nor_mm(repo):
    code = (
        'import sys, types\n'
        'parent = sys.modules["kapao_mm.datasets"] = types.ModuleType("kapao_mm.datasets")\n'
        'parent.__path__ = ["kapao_mm/datasets"]\n'
        'import kapao_mm.datasets.toy\n'
        'print({"torch", "mmengine", "mmcv"} & set(sys.modules))'
    )
    command = [sys.executable, '-c', code]
    run = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'


@pytest.mark.slow
@pytest.mark.parametrize('level', LEVELS)
def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path, level):
    first, second, other = (
        contents(make(tmp_path / name, level, seed=seed))
        for name, seed in (('a', 1), ('b', 1), ('c', 2))
    )
    assert first == second
    assert all(first[name] != other[name] for name in first)
    assert len(set(first.values())) == len(first) == 7  # all images differ


def test_numbers_of_images_do_not_change_the_images(tmp_path):
    few, many = make(tmp_path / 'few', train=2), make(tmp_path / 'many', train=4)
    for name, image in contents(few).items():
        assert name.endswith('.json') or image == contents(many)[name]
    people = annotations(few)['annotations']
    assert people == annotations(many)['annotations'][: len(people)]


def test_files_are_a_valid_coco_dataset(tmp_path):
    make(tmp_path, 'crowd', train=6, val=6)
    splits = [
        COCO(tmp_path / f'annotations/person_keypoints_{split}.json') for split in ('train', 'val')
    ]
    for coco in splits:
        (category,) = coco.cats.values()
        assert category['keypoints'] == list(KEYPOINTS)
        assert {joint for bone in category['skeleton'] for joint in bone} == set(range(1, 18))
        assert len(coco.imgs) == 6
        for image in coco.imgs.values():
            (path,) = tmp_path.glob(f'*/{image["file_name"]}')
            picture = cv2.imread(str(path))
            assert picture.shape == (image['height'], image['width'], 3) == (120, 160, 3)
        for person in coco.anns.values():
            assert person['image_id'] in coco.imgs
            check_annotation(person)
    assert not splits[0].imgs.keys() & splits[1].imgs.keys()
    assert not splits[0].anns.keys() & splits[1].anns.keys()


def check_annotation(person: dict) -> None:
    x, y, w, h = person['bbox']
    assert 0 <= x < x + w <= 160
    assert 0 <= y < y + h <= 120
    assert 0 < person['area'] <= w * h
    assert person['iscrowd'] == 0
    labels = np.reshape(person['keypoints'], (17, 3))
    assert person['num_keypoints'] == (labels[:, 2] > 0).sum() > 0
    assert (labels[labels[:, 2] == 0] == 0).all()
    corners = np.concatenate([np.reshape(line, (-1, 2)) for line in person['segmentation']])
    assert (corners >= [x, y]).all()
    assert (corners < [x + w, y + h]).all()


def test_finished_dataset_is_kept(tmp_path, capsys):
    make(tmp_path)
    assert 'wrote 3 + 2' in capsys.readouterr().out
    marked = tmp_path / 'train2017/toy_0000001.jpg'
    marked.write_bytes(b'kept')
    assert make(tmp_path) == tmp_path
    assert 'already contains 3 + 2' in capsys.readouterr().out
    assert marked.read_bytes() == b'kept'


@pytest.mark.parametrize('change', [{'train': 4}, {'level': 'crowd'}, {'seed': 1}])
def test_other_parameters_replace_the_dataset(tmp_path, change):
    make(tmp_path / 'a')
    make(tmp_path / 'a', **change)
    assert annotations(tmp_path / 'a') == annotations(make(tmp_path / 'b', **change))


def test_missing_image_is_drawn_again(tmp_path):
    make(tmp_path)
    missing = tmp_path / 'val2017/toy_1000002.jpg'
    before = missing.read_bytes()
    missing.unlink()
    make(tmp_path)
    assert missing.read_bytes() == before


def test_interrupted_run_leaves_no_annotations(tmp_path, monkeypatch):
    make(tmp_path)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, 'draw_scene', interrupt)
        make(tmp_path, seed=1)
    assert not list(tmp_path.glob('annotations/*'))
    make(tmp_path, seed=1)
    assert annotations(tmp_path)['info']['seed'] == 1


def test_another_dataset_is_not_replaced(tmp_path):
    path = tmp_path / 'annotations/person_keypoints_val.json'
    path.parent.mkdir()
    path.write_text(json.dumps({'info': {'description': 'COCO'}, 'images': []}))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r'person_keypoints_val\.json'):
        make(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize('wrong', [{'level': 'hard'}, {'train': 0}, {'val': -1}, {'seed': -1}])
def test_wrong_arguments_are_errors(tmp_path, wrong):
    with pytest.raises(InputError, match='toy'):
        make(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_command_line_writes_to_the_given_folder(tmp_path, monkeypatch, capsys):
    root = tmp_path / 'toy'
    arguments = [str(root), '--level', 'crowd', '--train', '1', '--val', '1', '--seed', '3']
    monkeypatch.setattr(sys, 'argv', ['toy', *arguments])
    __main__.main()
    assert capsys.readouterr().out == f'wrote 1 + 1 toy images (crowd, seed 3) to {root}\n'
    assert annotations(root)['images'][0]['width'] == 640
