# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.registry import MODELS, TRANSFORMS

from kapao_mm.configuration import load_config

CONFIGS = [
    *(f'kapao_{size}_coco' for size in 'nsml'),
    *(f'kapao_{size}_crowdpose' for size in 'sml'),
    'kapao_n_toy',
    'kapao_n_overfit',
]


def datasets(cfg):
    """The datasets of a config, out of their wrappers."""
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    return [loader.dataset.get('dataset', loader.dataset) for loader in loaders]


def build_model(repo, name):
    return MODELS.build(load_config(repo / f'configs/kapao/{name}.py').model)


def test_every_config_is_listed(repo):
    assert sorted(CONFIGS) == sorted(path.stem for path in (repo / 'configs/kapao').glob('*.py'))


@pytest.mark.parametrize(
    ('size', 'parameters'), [('n', 3203212), ('s', 12559980), ('m', 35755404), ('l', 77047852)]
)
def test_parameter_counts(repo, size, parameters):
    model = build_model(repo, f'kapao_{size}_coco')
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize('name', CONFIGS)
def test_head_metainfo_and_pipelines_fit(repo, name):
    cfg = load_config(repo / f'configs/kapao/{name}.py')
    for dataset in datasets(cfg):
        metainfo = parse_pose_metainfo(dataset.metainfo)
        assert metainfo['num_keypoints'] == cfg.model.head.num_keypoints
        for transform in dataset.pipeline:
            TRANSFORMS.build(transform)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_data_root_and_the_input_size_change_everywhere(repo, name):
    cfg = load_config(
        repo / f'configs/kapao/{name}.py', dict(data_root='elsewhere', input_size=320)
    )
    for dataset in datasets(cfg):
        assert dataset.data_root == 'elsewhere'
        sizes = [t['input_size'] for t in dataset.pipeline if 'input_size' in t]
        sizes += [t['img_scale'][0] for t in dataset.pipeline if 'img_scale' in t]
        assert sizes
        assert set(sizes) == {320}
