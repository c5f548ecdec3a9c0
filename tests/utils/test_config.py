# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from argparse import ArgumentParser, Namespace

import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, add_run_options
from kapao_mm.utils.config import apply_run_options, load_config

BASE = """
data_root = 'data/x'
size = (1280, 2560)
hooks = [dict(type='A'), dict(type='B')]
pipeline = [dict(type='Letterbox', size=size)]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
"""
CHILD = """
_base_ = './base.py'
train_dataloader = dict(batch=8, dataset=dict(pipeline=_base_.pipeline))
custom_hooks = [hook for hook in _base_.hooks if hook['type'] == 'A'] + [dict(type='C')]
evaluator = dict(size={{_base_.size}})
folder = '{{ fileDirname }}'
work_name = '{{ fileBasenameNoExtension }}'
"""
LAZY = """
from mmengine.config import read_base
from mmengine.optim import OptimWrapper

with read_base():
    from .base import *

optim_wrapper = dict(type=OptimWrapper)
train_dataloader.update(batch=8)
"""


@pytest.fixture
def child(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    path = tmp_path / 'child.py'
    path.write_text(CHILD)
    return path


def test_config_without_options_equals_that_of_mmengine(child):
    assert load_config(child).to_dict() == Config.fromfile(child).to_dict()


def test_expressions_with_base_and_file_names_accept_options(child):
    cfg = load_config(child, {'data_root': '/y', 'train_dataloader.batch': 2})
    expected = Config.fromfile(child).to_dict()
    expected['data_root'] = '/y'
    expected['train_dataloader'].update(batch=2)
    expected['train_dataloader']['dataset'].update(data_root='/y')
    assert cfg.to_dict() == expected
    assert [hook.type for hook in cfg.custom_hooks] == ['A', 'C']
    assert (cfg.folder, cfg.work_name) == (str(child.parent), 'child')


def test_pure_python_config_accepts_options(child):
    path = child.with_name('lazy.py')
    path.write_text(LAZY)
    cfg = load_config(path, {'data_root': '/y'})
    assert cfg.train_dataloader.dataset.data_root == '/y'
    assert cfg.train_dataloader.batch == 8
    assert cfg.optim_wrapper.type is OptimWrapper
    path.write_text(f"{LAZY}data_root = '/z'\n")
    with pytest.raises(InputError, match="data_root='/z' at the top"):
        load_config(path)


@pytest.mark.parametrize('suffix', ['.json', '.yaml'])
def test_json_and_yaml_configs_accept_options(child, suffix):
    path = child.with_suffix(suffix)
    load_config(child).dump(path)
    cfg = load_config(path, {'data_root': '/y'})
    assert cfg.train_dataloader.dataset.data_root == '/y'


def test_options_do_not_change_config_files(child):
    load_config(child, {'data_root': '/y'})
    assert load_config(child).data_root == 'data/x'
    assert (child.parent / 'base.py').read_text() == BASE


def test_config_with_options_keeps_its_file_name_and_can_be_dumped(child, tmp_path):
    cfg = load_config(child, {'data_root': '/y'})
    assert cfg.filename == str(child)
    cfg.dump(tmp_path / 'dump.py')
    assert load_config(tmp_path / 'dump.py').to_dict() == cfg.to_dict()


def test_new_nested_keys_and_keys_of_the_runner_are_accepted(child):
    cfg = load_config(
        child, {'train_dataloader.dataset.new': 1, 'work_dir': 'w', 'randomness.seed': 3}
    )
    assert cfg.train_dataloader.dataset.new == 1
    assert cfg.work_dir == 'w'
    assert cfg.randomness.seed == 3


@pytest.mark.parametrize('key', ['dta_root', 'data_rot', 'data-root'])
def test_unknown_key_is_refused_with_similar_ones(child, key):
    with pytest.raises(InputError, match=f"no key '{key}'.*did you mean.* data_root"):
        load_config(child, {key: '/y'})


def test_nested_key_with_an_unknown_first_part_is_refused(child):
    with pytest.raises(InputError, match="no key 'evaluatr' .*evaluatr.size=.*mean evaluator"):
        load_config(child, {'evaluatr.size': 1})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = (', 'SyntaxError'),
        ('a = 1\n\nb = a / 0\n', ', line 3 cannot be read: ZeroDivisionError'),
        ('a = b', "name 'b' is not defined"),
        ("_base_ = 'gone.py'", 'gone.py'),
        ("_base_ = 'a.py'", 'cannot be read'),
        ('_base_ = 3', 'cannot be read'),
        ("_base_ = ['mmpose::gone.py']", 'cannot be read'),
        ('_base_ = []\na = {{ _base_.gone }}', 'cannot be read'),
        ('import sys\n_base_ = []\nsys.exit(3)', 'SystemExit: 3'),
        ("raise BaseExceptionGroup('x', [KeyError()])", 'ExceptionGroup'),
        ('import gone_module_x\na = gone_module_x.b()', 'cannot be read'),
        ("custom_imports = dict(imports=['gone_module_x'], allow_failed_imports=False)", 'gone'),
        ("a = '{{ $GONE_VARIABLE: }}'", 'GONE_VARIABLE'),
        ("filename = 'x'", 'filename is reserved'),
        ('with open("x") as f:\n    pass', 'cannot be read'),
        ('from .gone import *', 'cannot be read'),
        ('\0', 'cannot be read'),
    ],
)
def test_broken_python_file_is_reported_with_its_error(tmp_path, text, message):
    (tmp_path / 'a.py').write_text(text)
    with pytest.raises(InputError, match=rf'config file {tmp_path}/a.py.*{message}'):
        load_config(tmp_path / 'a.py')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.txt', 'a = 1', 'must end in .py, .json'),
        ('a', 'a = 1', 'must end in .py, .json'),
        ('a.json', '3', 'cannot be read'),
        ('a.json', '', 'cannot be read'),
        ('a.yaml', '[1]', 'cannot be read'),
        ('a.yaml', '', 'cannot be read'),
    ],
)
def test_file_that_is_not_a_config_is_reported(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f'config file {tmp_path}/{name} {message}'):
        load_config(tmp_path / name)


@pytest.mark.parametrize(
    'key',
    [
        *(f'train_dataloader.dataset.pipeline.{index}.size' for index in ('9', '-1', 'a', '')),
        'work_name.a',
        'train_dataloader.batch.a',
    ],
)
def test_unsuitable_option_is_reported(child, key):
    with pytest.raises(InputError, match=f'--cfg-options {key}'):
        load_config(child, {key: 1})


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(InputError, match=f'config file {tmp_path}/gone.py does not exist'):
        load_config(tmp_path / 'gone.py')


def test_option_values_keep_spaces_and_get_types(tmp_path):
    parser = ArgumentParser()
    add_config_options(parser, 'a=1')
    path = tmp_path / 'config.py'
    path.write_text('a = b = c = d = e = f = g = None\n')
    options = ['a=/my data/coco', 'b=1', 'c=[1, (2, x)]', 'd=True', "e='None'", 'f=1,2', 'g=x=y']
    cfg = load_config(path, parser.parse_args(['--cfg-options', *options]).cfg_options)
    assert cfg.to_dict() == dict(
        a='/my data/coco', b=1, c=[1, (2, 'x')], d=True, e=None, f=[1, 2], g='x=y'
    )


@pytest.mark.parametrize('gpu', [True, False])
def test_dataloaders_are_adapted_to_gpu_and_number_of_workers(repo, monkeypatch, gpu):
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpu)
    path = repo / 'configs/kapao/kapao_n_coco.py'
    cfg = load_config(path, {'val_dataloader.num_workers': 0})
    parser = ArgumentParser()
    add_run_options(parser, 'a=1')
    apply_run_options(cfg, parser.parse_args([], Namespace(config=str(path))))
    loaders = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]
    assert [loader.pin_memory for loader in loaders] == [gpu] * 3
    assert [loader.persistent_workers for loader in loaders] == [False, False, True]


@pytest.mark.parametrize('name', ['coco', 'crowdpose'])
def test_dataloaders_follow_data_root_files_and_input_size(repo, name):
    path = repo / f'configs/_base_/datasets/{name}_loaders.py'
    options = dict(data_root='/y', input_size=640, train_ann='t.json', val_ann='v.json')
    cfg = load_config(path, options)
    text = str(cfg.to_dict())
    assert '1280' not in text and 'data/' not in text
    loaders = dict(train='t.json', val='v.json', test='v.json')
    if name == 'crowdpose':  # has no validation
        del loaders['val']
    for loader, ann_file in loaders.items():
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert (dataset.data_root, dataset.ann_file) == ('/y', ann_file)
        assert '640' in str(dataset.pipeline)
