# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The flags of tools/train.py."""

import os
import sys

import pytest
import torch
from mmpose.registry import MODELS

from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config

RECIPE = 'configs/kapao/kapao_n_coco.py'
TOY = 'configs/kapao/kapao_n_toy.py'


@pytest.fixture
def applied(repo, load_file, monkeypatch, tmp_path):
    """Makes a function that returns a config after the flags were applied."""
    train = load_file('tools/train.py')

    def apply(config, *flags, **values):
        work = ['--work-dir', str(tmp_path)]
        monkeypatch.setattr(sys, 'argv', ['train.py', str(repo / config), *work, *map(str, flags)])
        cfg = load_config(repo / config, values)
        train.apply_args(cfg, train.parse_args())
        return cfg

    return apply


@pytest.mark.parametrize(
    ('wrapper', 'expected'),
    [
        ('KAPAOOptimWrapper', dict(type='KAPAOOptimWrapper', precision='float16')),
        ('OptimWrapper', dict(type='AmpOptimWrapper', loss_scale='dynamic')),
    ],
)
def test_amp_sets_float16(applied, monkeypatch, wrapper, expected):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    found = applied(RECIPE, '--amp', **{'optim_wrapper.type': wrapper}).optim_wrapper
    assert {name: found[name] for name in expected} == expected


def test_scaling_the_lr_needs_a_base_batch_size(run_tool, tmp_path):
    message = run_tool('train.py', RECIPE, '--auto-scale-lr', '--work-dir', tmp_path)
    assert message.startswith('error: --auto-scale-lr needs auto_scale_lr.base_batch_size in')


def test_the_lr_is_scaled_on_request(applied):
    scale = dict(base_batch_size=64)
    assert applied(TOY, '--auto-scale-lr', auto_scale_lr=scale).auto_scale_lr.enable


def test_resuming_without_a_checkpoint_keeps_load_from(applied):
    cfg = applied(TOY, '--resume', load_from='start.pth')
    assert cfg.load_from == 'start.pth'
    assert not cfg.resume


def test_resuming_loads_the_last_checkpoint(applied, tmp_path):
    path = tmp_path / 'epoch_3.pth'
    torch.save(dict(state_dict={}, meta={}, message_hub={}, optimizer={}), path)
    (tmp_path / 'last_checkpoint').write_text(str(path))
    cfg = applied(TOY, '--resume', load_from='start.pth')
    assert cfg.load_from == str(path)
    assert cfg.resume


@pytest.mark.slow
def test_initial_weights_of_another_model_size_are_refused(repo, run_tool, tmp_path):
    start = tmp_path / 'start.pth'
    cfg = load_config(repo / TOY)
    with torch.device('meta'):
        other = MODELS.build(load_config(repo / 'configs/kapao/kapao_s_coco.py').model)
    weights = {name: torch.zeros(value.shape) for name, value in other.state_dict().items()}
    torch.save(dict(state_dict=weights), start)
    assert not cfg.load_from
    message = run_tool(
        'train.py', TOY, '--work-dir', tmp_path / 'work', '--cfg-options', f'load_from={start}'
    )
    assert message.startswith(f'error: training cannot start from {start}')


@pytest.mark.slow
def test_the_recipe_trains_without_validation(run_tool, toy, tmp_path):
    values = dict(data_root=toy, input_size=64, max_epochs=1)
    values |= {'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0}
    values |= {
        f'{part}_ann': f'annotations/person_keypoints_{part}.json' for part in ('train', 'val')
    }
    options = ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]
    assert run_tool('train.py', RECIPE, '--no-validate', '--work-dir', tmp_path, *options) is None
    assert (tmp_path / 'epoch_1.pth').is_file()
    assert not list(tmp_path.glob('best*'))


QUICK = ['--cfg-options', 'input_size=64', 'max_epochs=1', 'train_dataloader.num_workers=0']


def test_checkpoints_of_another_run_are_not_overwritten(run_tool, toy, tmp_path):
    for name in ('epoch_1.pth', 'kapao_n_toy.py'):
        (tmp_path / name).write_text('precious')
    message = run_tool('train.py', TOY, '--work-dir', tmp_path, *QUICK, f'data_root={toy}')
    assert message.startswith(f'error: {tmp_path} has checkpoints of another run (1, such as epo')
    for advice in ('--resume', '--work-dir', '--overwrite'):
        assert advice in message
    assert {path.read_text() for path in tmp_path.iterdir()} == {'precious'}


@pytest.mark.slow
def test_checkpoints_of_another_run_are_overwritten_on_request(run_tool, toy, tmp_path):
    (tmp_path / 'epoch_1.pth').write_text('old')
    flags = ['--work-dir', tmp_path, '--no-validate', '--overwrite', *QUICK]
    assert run_tool('train.py', TOY, *flags, 'batch_size=2', f'data_root={toy}') is None
    assert load_weights_only(tmp_path / 'epoch_1.pth')['meta']['epoch'] == 1


def test_resume_in_the_config_works_like_the_flag(applied, tmp_path):
    path = tmp_path / 'epoch_3.pth'
    torch.save(dict(state_dict={}, meta={}, message_hub={}, optimizer={}), path)
    cfg = applied(TOY, resume=True)  # last_checkpoint is missing; MMEngine would start again
    assert (cfg.resume, cfg.load_from) == (True, str(path))
    path.write_bytes(b'')
    with pytest.raises(InputError, match='message_hub, optimizer missing|cannot be resumed'):
        applied(TOY, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize('flag', ['load_from', 'resume', 'backbone'])
def test_code_in_downloaded_weights_is_not_run(run_tool, toy, tmp_path, served, flag):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    folder, server = served
    torch.save(dict(meta={}, message_hub={}, optimizer={}, state_dict=Runs()), folder / 'a.pth')
    url = server.url('a.pth')
    flags = ['--resume', url] if flag == 'resume' else []
    options = [f'data_root={toy}', 'batch_size=2']
    if flag == 'load_from':
        options.append(f'load_from={url}')
    elif flag == 'backbone':
        init = 'model.backbone.init_cfg'
        options += [f'{init}.type=Pretrained', f'{init}.checkpoint={url}']
    work = tmp_path / 'work'
    message = run_tool('train.py', TOY, '--work-dir', work, *flags, *QUICK, *options)
    assert 'cannot be read safely' in message
    assert not (tmp_path / 'ran').exists()
