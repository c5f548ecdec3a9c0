# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kapao_mm.engine.weights_only import _find_allowed, load_restricted, load_weights_only


def find_nothing(name: str) -> Any:
    raise pickle.UnpicklingError(f'{name} is not allowed')


class Thing:
    """A class that is allowed in files."""


def write_program(path, opcodes: bytes) -> None:
    """Writes a file in torch's format whose content is a given pickle program."""
    torch.save(torch.ones(4), path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, opcodes if name.endswith('data.pkl') else content)


def test_tensors_and_containers_are_read(tmp_path):
    content = dict(
        state_dict=OrderedDict(a=torch.rand(3), b=nn.Parameter(torch.rand(2).half())),
        meta=dict(epoch=3, names=['x', ('y',)], size=torch.Size([1]), dtype=torch.float16),
    )
    torch.save(content, tmp_path / 'a.pth')
    read = load_restricted(tmp_path / 'a.pth', find_nothing)
    assert read['meta'] == content['meta']
    for name, value in content['state_dict'].items():
        assert torch.equal(read['state_dict'][name], value)


@pytest.mark.parametrize(
    'read', [load_weights_only, lambda path: load_restricted(path, _find_allowed)]
)
def test_empty_arrays_are_read_but_bytes_of_any_size_are_not(tmp_path, read):
    torch.save(dict(skeleton_link_colors=np.zeros((0, 3), np.uint8)), tmp_path / 'a.pth')
    assert read(tmp_path / 'a.pth')['skeleton_link_colors'].shape == (0, 3)
    write_program(tmp_path / 'bomb.pth', b'c__builtin__\nbytes\n(I1000000000000\ntR.')
    with pytest.raises((TypeError, pickle.UnpicklingError), match='argument'):
        read(tmp_path / 'bomb.pth')


def test_call_of_another_function_is_refused(tmp_path):
    write_program(tmp_path / 'a.pth', b'cbuiltins\nprint\n(Vhello\ntR.')
    with pytest.raises(pickle.UnpicklingError, match='builtins.print is not allowed'):
        load_restricted(tmp_path / 'a.pth', find_nothing)


def test_state_is_set_on_objects_only(tmp_path):
    write_program(tmp_path / 'class.pth', b'cx\nThing\n}Vy\nI1\nsb.')
    with pytest.raises(pickle.UnpicklingError, match='Can only build'):
        load_restricted(tmp_path / 'class.pth', lambda name: Thing)
    write_program(tmp_path / 'object.pth', b'cx\nThing\n)R}Vy\nI1\nsb.')
    assert load_restricted(tmp_path / 'object.pth', lambda name: Thing).y == 1


@pytest.mark.parametrize(
    'program', [b'(ibuiltins\nprint\n.', b'(cbuiltins\nprint\no.', b'\x82\x01.', b'\x92.']
)
def test_rare_opcodes_are_refused(tmp_path, program):
    write_program(tmp_path / 'a.pth', program)
    with pytest.raises(pickle.UnpicklingError, match='opcode [A-Z1_]+, which is not'):
        load_restricted(tmp_path / 'a.pth', lambda name: Thing)


def test_other_formats_are_refused(tmp_path):
    (tmp_path / 'old.pth').write_bytes(pickle.dumps({}))
    torch.jit.script(nn.Identity()).save(tmp_path / 'script.pth')
    for name, reason in (('old', 'not a file of torch.save'), ('script', 'TorchScript')):
        with pytest.raises(pickle.UnpicklingError, match=reason):
            load_restricted(tmp_path / f'{name}.pth', find_nothing)


def test_storage_that_is_shorter_than_stated_is_refused(tmp_path):
    """torch before 2.6 does not check this."""
    path = tmp_path / 'a.pth'
    torch.save(torch.ones(4), path)
    with zipfile.ZipFile(path) as archive:
        program = archive.read(next(n for n in archive.namelist() if n.endswith('data.pkl')))
    assert load_restricted(path, find_nothing).tolist() == [1] * 4
    assert program.count(b'K\x04t') == 1  # the number of elements, the last part of its name
    write_program(path, program.replace(b'K\x04t', b'K\x08t'))
    with pytest.raises(pickle.UnpicklingError, match='its storage 0 is shorter than stated'):
        load_restricted(path, find_nothing)
