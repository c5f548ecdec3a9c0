# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

import pytest
from mmengine.config import Config
from mmpose.registry import MODELS

from kapao_mm.engine.stored_config import read_literals, read_stored_config
from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config


@pytest.fixture(scope='module')
def cfg(repo) -> Config:
    return load_config(repo / 'configs/kapao/kapao_n_people_wheels.py', dict(input_size=384))


def read(text) -> Config:
    return read_stored_config(dict(meta=dict(cfg=text)), 'a.pth')


def test_the_stored_config_has_the_model_and_the_input_size(cfg):
    found = read(cfg.pretty_text)
    assert found.model.to_dict() == cfg.model.to_dict()
    letterbox = found.test_dataloader.dataset.pipeline[1]
    assert (letterbox.input_size, letterbox.square) == (384, True)
    assert MODELS.build(found.model).head.num_keypoints == 22


def test_text_of_a_config_is_read_as_mmengine_writes_it():
    values = dict(
        a=[1, -2.5e-05, None, True],
        b={'x-y': (1, 'z')},
        c=dict(d=dict(), f=float('inf')),
        e='it\'s "é"',
    )
    assert read_literals(Config(values).pretty_text) == Config(values).to_dict()


def attacks(folder: Path) -> dict[str, str]:
    touch = f"__import__('pathlib').Path({str(folder / 'ran')!r}).touch()"
    return dict(
        call=f'x = {touch}',
        statement=touch,
        in_dict=f'model = dict(type="KAPAO", x={touch})',
        unpacked=f'model = dict(**{touch})',
        attribute='model = dict.fromkeys([1])',
        f_string=f"x = f'{{{touch}}}'",
        imported='import os',
        not_python='model = (',
        deep='x = ' + '[' * 5000 + ']' * 5000,
    )


@pytest.mark.parametrize('name', attacks(Path()))
def test_anything_but_data_is_refused_and_not_run(cfg, tmp_path, name):
    text = f'{attacks(tmp_path)[name]}\n{cfg.pretty_text}'
    with pytest.raises(InputError, match=r'inside checkpoint a\.pth cannot be read as data'):
        read(text)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('part', ['subprocess.Popen', 'os.system', 'torch.load', 'mmengine.Config'])
def test_only_registered_parts_are_built(cfg, part):
    changed = Config(cfg.to_dict())
    changed.model.neck = dict(type=part, args='touch ran')
    with pytest.raises(InputError, match=f'unknown part {part!r}'):
        read(changed.pretty_text)


def test_initial_weights_are_not_loaded(cfg):
    changed = Config(cfg.to_dict())
    changed.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='http://example.org/a')
    assert 'init_cfg' not in read(changed.pretty_text).model.backbone


@pytest.mark.parametrize('text', [None, 7])
def test_a_checkpoint_without_a_config_needs_one(text):
    with pytest.raises(InputError, match=r'a\.pth has no config inside: give the config too'):
        read(text)


@pytest.mark.parametrize('text', ['', 'a = 1', 'model = 3', 'model = dict()'])
def test_a_config_of_something_else_is_refused(text):
    with pytest.raises(InputError, match='give the config too'):
        read(text)
