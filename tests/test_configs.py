# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
from mmpose.registry import MODELS, TRANSFORMS

from kapao_mm.datasets import read_metainfo
from kapao_mm.utils.config import load_config

CONFIGS = [
    *(f'kapao_{size}_coco' for size in 'nsml'),
    *(f'kapao_{size}_crowdpose' for size in 'sml'),
    *(f'kapao_s_{name}' for name in ('ap10k', 'animalpose', 'coco_crowdpose')),
    *(f'kapao_n_{name}' for name in ('toy', 'overfit', 'people_wheels')),
]


def datasets(cfg):
    """The datasets of a config without their wrappers; CrowdPose has none for validation."""
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    return [loader.dataset.get('dataset', loader.dataset) for loader in loaders if loader]


def build_model(repo, name):
    return MODELS.build(load_config(repo / f'configs/kapao/{name}.py').model)


def test_every_config_is_listed(repo):
    assert sorted(CONFIGS) == sorted(path.stem for path in (repo / 'configs/kapao').glob('*.py'))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('size', 'parameters'), [('n', 3203212), ('s', 12559980), ('m', 35755404), ('l', 77047852)]
)
def test_parameter_counts(repo, size, parameters):
    model = build_model(repo, f'kapao_{size}_coco')
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize('name', CONFIGS)
def test_head_metainfo_and_pipelines_fit_each_other(repo, name):
    cfg = load_config(repo / f'configs/kapao/{name}.py')
    for dataset in datasets(cfg):
        metainfo = read_metainfo(dataset.metainfo)
        counts = [len(category['keypoint_ids']) for category in metainfo['categories']]
        assert cfg.model.head.num_keypoints == (counts if len(counts) > 1 else counts[0])
        for transform in dataset.pipeline:
            TRANSFORMS.build(transform)


@pytest.mark.parametrize('name', CONFIGS)
def test_data_root_and_input_size_change_everywhere(repo, name):
    cfg = load_config(
        repo / f'configs/kapao/{name}.py', dict(data_root='elsewhere', input_size=320)
    )
    for dataset in datasets(cfg):
        part = dataset.get('datasets', [dataset])[0]  # other parts have roots of their own
        assert part.data_root == 'elsewhere'
        sizes = [t['input_size'] for t in dataset.pipeline if 'input_size' in t]
        sizes += [t['img_scale'][0] for t in dataset.pipeline if 'img_scale' in t]
        assert sizes
        assert set(sizes) == {320}


# From docs/method.md, Training.
@pytest.mark.parametrize(('size', 'total_batch'), [('s', 128), ('m', 72), ('l', 48)])
@pytest.mark.parametrize(('dataset', 'epochs'), [('coco', 500), ('crowdpose', 300)])
def test_the_published_schedule(repo, size, total_batch, dataset, epochs):
    cfg = load_config(repo / f'configs/kapao/kapao_{size}_{dataset}.py')
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_dataloader.batch_size * 4 == total_batch
    assert cfg.optim_wrapper == dict(
        type='KAPAOOptimWrapper',
        constructor='KAPAOOptimWrapperConstructor',
        precision='auto',
        optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4),
    )
    hooks = {hook['type']: hook for hook in cfg.custom_hooks}
    assert hooks['RecipeHook'] == dict(
        type='RecipeHook',
        nominal_batch=64,
        warmup_epochs=3,
        warmup_iterations=1000,
        warmup_bias_lr=0.1,
        warmup_momentum=0.8,
        final_lr_ratio=0.2,
    )
    assert hooks['StepEMAHook'] == dict(type='StepEMAHook', decay=0.9999, ramp=2000)


def test_coco_is_validated_every_epoch_and_crowdpose_never(repo):
    coco, crowdpose = (
        load_config(repo / f'configs/kapao/kapao_s_{name}.py') for name in ('coco', 'crowdpose')
    )
    assert coco.train_cfg.val_interval == 1
    assert coco.default_hooks.checkpoint.save_best == 'auto'  # the first metric, AP
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        assert coco[key] is not None
        assert crowdpose[key] is None
    assert crowdpose.test_evaluator.iou_type == 'keypoints_crowd'
