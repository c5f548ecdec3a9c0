# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The published configs train and test on real images of their datasets."""

import json

import pytest
from mmengine.runner import Runner

from kapao_mm.utils.config import load_config

SAMPLES = dict(
    coco=dict(
        data_root='data/coco_subset',
        train_ann='annotations/person_keypoints_train.json',
        val_ann='annotations/person_keypoints_val.json',
    ),
    crowdpose=dict(
        data_root='data/crowdpose_sample',
        train_ann='test_crowdpose.json',
        val_ann='test_crowdpose.json',
        train_img='',
        val_img='',
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize('dataset', ['coco', 'crowdpose'])
def test_two_iterations_and_a_test(repo, shared_dir, tmp_path, dataset):
    options = dict(SAMPLES[dataset])
    options['data_root'] = str(shared_dir / options['data_root'])
    options.update({'input_size': 128, 'work_dir': str(tmp_path), 'train_dataloader.batch_size': 1})
    loaders = ['train_dataloader', 'test_dataloader']
    loaders += ['val_dataloader'] if dataset == 'coco' else []  # CrowdPose has no validation
    for loader in loaders:
        options[f'{loader}.num_workers'] = 0
        options[f'{loader}.persistent_workers'] = False
        options[f'{loader}.dataset.indices'] = 2
    options['max_epochs'] = 1
    cfg = load_config(repo / f'configs/kapao/kapao_s_{dataset}.py', options)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert f'{dataset}/AP' in runner.test()
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    validated = any(f'{dataset}/AP' in record for record in records)
    assert validated == (dataset == 'coco') == bool(list(tmp_path.glob('best_coco_AP_*.pth')))
