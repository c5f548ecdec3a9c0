# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The config of each dataset trains and is tested on images of it, as a user would run it."""

import json

import numpy as np
import pytest

from kapao_mm.engine.weights_only import load_weights_only

COCO = dict(
    train_ann='annotations/person_keypoints_train.json',
    val_ann='annotations/person_keypoints_val.json',
    val_dataloader__dataset__indices=2,
    val_dataloader__num_workers=0,
    test_dataloader__dataset__indices=2,
)
CROWDPOSE = 'test_crowdpose.json'


def options(**values):
    """--cfg-options of a run that takes seconds; ``__`` stands for a dot."""
    widths = [32, 64, 96, 128]
    quick = dict(
        input_size=128,
        model__backbone__widen_factor=0.125,
        model__neck__in_channels=widths,
        model__head__in_channels=widths,
        model__test_cfg__pose_score_thr=0,  # so few iterations teach little
        model__test_cfg__validation__pose_score_thr=0,
        train_cfg__max_epochs=1,
        train_cfg__val_interval=1,
        train_dataloader__batch_size=1,
    )
    quick |= {f'{loader}_dataloader__num_workers': 0 for loader in ('train', 'test')}
    pairs = (f'{key.replace("__", ".")}={value}' for key, value in (quick | values).items())
    return ['--cfg-options', *(pair.replace(' ', '') for pair in pairs)]


@pytest.fixture
def coco(shared_dir):
    root = shared_dir / 'data/coco_subset'
    return COCO | dict(data_root=root, train_dataloader__dataset__indices=2)


@pytest.fixture
def crowdpose(shared_dir):
    root = shared_dir / 'data/crowdpose_sample'
    return dict(data_root=root, train_ann=CROWDPOSE, train_img='', val_ann=CROWDPOSE, val_img='')


@pytest.fixture
def ap10k(shared_dir):
    files = {f'{part}_ann': 'test_ap10k.json' for part in ('train', 'val', 'test')}
    folders = {f'{part}_img': '' for part in ('train', 'val', 'test')}
    root = shared_dir / 'data/ap10k_sample'
    return dict(data_root=root, val_dataloader__num_workers=0, **files, **folders)


@pytest.fixture
def animalpose(shared_dir, tmp_path):
    """AP-10K's images and boxes; there is no sample of Animal-Pose, its 20 keypoints are made."""
    root = shared_dir / 'data/ap10k_sample'
    content = json.loads((root / 'test_ap10k.json').read_text())
    for ann in content['annotations']:
        x, y, w, h = ann['bbox']
        steps = np.linspace(0.1, 0.9, 20)
        points = np.stack([x + w * steps, y + h * steps, np.full(20, 2)], 1)
        ann.update(category_id=1, num_keypoints=20, keypoints=points.ravel().tolist())
    content['categories'] = [dict(id=1, name='animal')]
    path = tmp_path / 'animalpose.json'
    path.write_text(json.dumps(content))
    return dict(data_root=root, train_ann=path, val_ann=path, val_dataloader__num_workers=0)


@pytest.fixture
def coco_crowdpose(shared_dir):
    return COCO | dict(
        data_root=shared_dir / 'data/coco_subset',
        crowdpose_root=shared_dir / 'data/crowdpose_sample',
        crowdpose_ann=CROWDPOSE,
        crowdpose_img='',
        train_dataloader__dataset__datasets__0__indices=2,
        train_dataloader__batch_size=2,
    )


@pytest.fixture
def people_wheels(run_tool, shared_dir, tmp_path):
    """The samples of both, merged."""
    root = shared_dir / 'data'
    for part in ('train', 'val'):
        people = f'coco_subset/annotations/person_keypoints_{part}.json', f'coco_subset/{part}2017'
        wheels = f'vehicle_wheels/{part}.json', 'vehicle_wheels'
        merged = tmp_path / f'{part}.json'
        tool = 'dataset_converters/merge_coco.py'
        assert run_tool(tool, root, merged, '--add', *people, '--add', *wheels) is None
    return dict(
        data_root=root,
        train_ann=tmp_path / 'train.json',
        val_ann=merged,
        train_dataloader__dataset__indices=[0, 200],  # people, wheels
        val_dataloader__dataset__indices=[0, 80],
        test_dataloader__dataset__indices=[0, 80],
        val_dataloader__num_workers=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dataset', 'keypoints', 'validated', 'prefix', 'parts'),
    [
        ('coco', 17, True, 'coco', ['AP (M)', 'AP (L)']),
        ('crowdpose', 14, False, 'crowdpose', ['AP(E)', 'AP(M)', 'AP(H)']),
        ('ap10k', 17, True, 'coco', ['AP (M)', 'AP (L)']),
        ('animalpose', 20, True, 'coco', ['AP (M)', 'AP (L)']),
        ('coco_crowdpose', 17, True, 'coco', ['AP (M)', 'AP (L)']),
        ('people_wheels', 22, True, 'coco', ['person/AP', 'wheel/AP', 'wheel/box AP']),
    ],
)
def test_two_iterations_and_a_test(
    run_tool, request, tmp_path, dataset, keypoints, validated, prefix, parts
):
    size = 'n' if dataset == 'people_wheels' else 's'
    config, work = f'configs/kapao/kapao_{size}_{dataset}.py', tmp_path / 'work'
    given = ['--work-dir', work, *options(**request.getfixturevalue(dataset))]
    assert run_tool('train.py', config, *given) is None
    found = load_weights_only(work / 'epoch_1.pth')
    assert found['meta']['iter'] == 2
    assert found['meta']['dataset_meta']['num_keypoints'] == keypoints
    assert bool(list(work.glob('best_coco_AP_*.pth'))) == validated

    out = tmp_path / 'metrics.json'
    assert run_tool('test.py', config, work / 'epoch_1.pth', '--out', out, *given) is None
    metrics = json.loads(out.read_text())
    assert {f'{prefix}/{name}' for name in ['AP', *parts]} <= metrics.keys()
    assert 0 <= metrics[f'{prefix}/AP'] <= 1


@pytest.mark.slow
def test_combined_datasets_of_another_number_of_keypoints_end_before_training(
    run_tool, coco_crowdpose, tmp_path
):
    given = options(**coco_crowdpose, model__head__num_keypoints=14)
    config = 'configs/kapao/kapao_s_coco_crowdpose.py'
    message = run_tool('train.py', config, '--work-dir', tmp_path, *given)
    assert message.startswith(
        'error: model.head.num_keypoints is 14, but the dataset of train_dataloader (coco) has 17'
    )
