# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pickle

import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.errors import InputError
from kapao_mm.models import KAPAOTTA
from kapao_mm.utils.config import load_config

TOY = 'configs/kapao/kapao_n_toy.py'
CROWDPOSE = 'configs/kapao/kapao_s_crowdpose.py'
QUICK = {'input_size': 256, 'test_dataloader.num_workers': 0}


@pytest.fixture
def run(run_tool, repo, tmp_path):
    """Makes a function that tests weights with poses of score 0.25 in every grid cell."""

    def run(config, *flags, **values):
        options = QUICK | {key.replace('__', '.'): value for key, value in values.items()}
        model = MODELS.build(load_config(repo / config, options).model)
        for conv in model.head.head_module.convs:
            torch.nn.init.zeros_(conv.weight)
            torch.nn.init.constant_(conv.bias, -10)
            bias = conv.bias.detach().view(model.head.head_module.num_anchors, -1)
            bias[:, 4:6] = 0  # objectness, class of pose objects
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
        args = [config, tmp_path / 'a.pth', '--work-dir', tmp_path, '--dump', tmp_path / 'a.pkl']
        pairs = (f'{key}={value}' for key, value in options.items())
        assert run_tool('test.py', *args, *flags, '--cfg-options', *pairs) is None
        return pickle.loads((tmp_path / 'a.pkl').read_bytes())  # written by this test

    return run


@pytest.fixture
def apply_tta(load_file):
    return load_file('tools/test.py').apply_tta


@pytest.mark.slow
def test_tta_uses_square_inputs_and_draws_pictures(run, toy, tmp_path):
    plain = run(TOY, data_root=str(toy))
    found = run(TOY, '--tta', '--show-dir', tmp_path / 'pictures', data_root=str(toy))
    assert [data['input_size'] for data in plain] == [(256, 192)] * 2
    assert [data['input_size'] for data in found] == [(256, 256)] * 2
    assert all(len(data['pred_instances']['bboxes']) > 0 for data in found)
    assert len(list((tmp_path / 'pictures').rglob('*.jpg'))) == 2


@pytest.mark.slow
def test_tta_has_its_own_inference_settings(run, toy):
    options = dict(data_root=str(toy), model__test_cfg__tta__pose_score_thr=0.3)
    assert all(len(data['pred_instances']['bboxes']) > 0 for data in run(TOY, **options))
    assert not any(len(data['pred_instances']['bboxes']) for data in run(TOY, '--tta', **options))


@pytest.mark.slow
def test_tta_supports_the_keypoints_of_crowdpose(run, shared_dir):
    root = str(shared_dir / 'data/crowdpose_sample')
    found = run(CROWDPOSE, '--tta', data_root=root, val_ann='test_crowdpose.json', val_img='.')
    assert [data['pred_instances']['keypoints'].shape[1:] for data in found] == [(14, 2)] * 2
    assert [data['input_size'] for data in found] == [(256, 256)] * 2


@pytest.mark.slow
def test_every_config_supports_tta_with_its_own_pipeline(repo, apply_tta):
    for path in sorted((repo / 'configs/kapao').glob('*.py')):
        cfg = load_config(path, dict(input_size=320))
        plain = load_config(path, dict(input_size=320)).test_dataloader.dataset.pipeline
        apply_tta(cfg)
        (letterbox,) = (t for t in plain if t.type == 'Letterbox')
        assert letterbox.input_size == 320
        letterbox.square = True
        assert cfg.test_dataloader.dataset.pipeline == plain
        with torch.device('meta'):
            assert isinstance(MODELS.build(cfg.model), KAPAOTTA)


def test_inputs_of_a_wrapped_dataset_become_square(repo, apply_tta):
    cfg = load_config(repo / TOY)
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=dataset)
    apply_tta(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline[1].square


def test_a_config_without_tta_model_is_refused(repo, apply_tta):
    cfg = load_config(repo / TOY)
    cfg.pop('tta_model')
    with pytest.raises(InputError, match='--tta needs tta_model'):
        apply_tta(cfg)
