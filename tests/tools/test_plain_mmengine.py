# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Configs work with plain MMEngine: in other folders, with MMPose's tools, and with bases."""

import importlib.util
import sys
from pathlib import Path

import mmpose
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from kapao_mm.errors import InputError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
DERIVED = """
_base_ = {base!r}
from kapao_mm.utils.config import set_everywhere

set_everywhere(_base_, data_root={toy!r}, input_size=64, max_epochs=1, batch_size=2)

train_cfg = dict(val_interval=1)
train_dataloader = dict(num_workers=0)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=1))
"""


@pytest.fixture
def derived(repo, toy, tmp_path):
    """A config in another folder that changes its base with set_everywhere."""
    path = tmp_path / 'configs/mine.py'
    path.parent.mkdir()
    base = str(repo / 'configs/kapao/kapao_n_toy.py')
    path.write_text(DERIVED.format(base=base, toy=str(toy)))
    return path


@pytest.fixture
def mmpose_train(tmp_path, monkeypatch):
    """Makes a function that runs MMPose's tools/train.py in another folder."""
    path = Path(mmpose.__file__).parent / '.mim/tools/train.py'
    spec = importlib.util.spec_from_file_location('mmpose_train', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(config, *args):
        args = [config, '--work-dir', tmp_path / 'work', *args]
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, args)])
        monkeypatch.chdir(tmp_path)
        module.main()

    return run


def test_set_everywhere_changes_what_the_bases_derived(derived, toy):
    cfg = Config.fromfile(derived)
    for name in LOADERS:
        assert cfg[name].dataset.data_root == str(toy)
        assert cfg[name].batch_size == 2
        sizes = [step.get('input_size', 64) for step in cfg[name].dataset.pipeline]
        assert set(sizes) == {64}
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].T_max == 1


@pytest.mark.slow
def test_our_tools_train_a_derived_config_with_options(run_tool, derived, tmp_path):
    options = ['--cfg-options', 'input_size=128', 'max_epochs=2']
    pictures = ['--show-dir', tmp_path / 'pictures', '--interval', 2]
    assert run_tool('train.py', derived, '--work-dir', tmp_path, *pictures, *options) is None
    assert (tmp_path / 'epoch_2.pth').is_file()
    found = sorted((tmp_path / 'pictures').rglob('*.jpg'))
    assert [path.parent.name for path in found] == ['epoch_1', 'epoch_2']  # the first of two images


@pytest.mark.slow
def test_a_runner_trains_a_derived_config(derived, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(derived)
    cfg.work_dir = str(tmp_path)
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.slow
def test_mmposes_tool_trains_a_derived_config(mmpose_train, derived, tmp_path):
    mmpose_train(derived, '--show-dir', 'pictures', '--interval', 1)
    assert (tmp_path / 'work/epoch_1.pth').is_file()
    assert len(list((tmp_path / 'work').glob('*/pictures/epoch_1/*.jpg'))) == 2


@pytest.mark.parametrize('value', ['data_root=elsewhere', 'input_size=128', 'max_epochs=3'])
def test_mmposes_tool_refuses_options_without_effect(mmpose_train, derived, value):
    name = value.partition('=')[0]
    with pytest.raises(InputError, match=f'{name}=.* at the top of .*mine.py changes nothing'):
        mmpose_train(derived, '--cfg-options', value)


def test_mmposes_tool_refuses_config_variables_without_effect(mmpose_train, derived):
    derived.write_text(f"{derived.read_text()}\ndata_root = 'elsewhere'\n")
    with pytest.raises(InputError, match="data_root='elsewhere' at the top of"):
        mmpose_train(derived)


@pytest.mark.slow
def test_mmposes_tool_accepts_nested_keys(mmpose_train, derived, tmp_path):
    mmpose_train(derived, '--no-validate', '--cfg-options', 'train_cfg.max_epochs=2')
    assert (tmp_path / 'work/epoch_2.pth').is_file()
