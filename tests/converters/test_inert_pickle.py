# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Malicious pickles are written opcode by opcode; if executed, they would create a file `ran`."""

import collections
import os
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from kapao_mm.converters.inert_pickle import InertObject, load_inert
from kapao_mm.engine.weights_only import TORCH_CAN
from kapao_mm.errors import InputError

COMMAND = b'X' + struct.pack('<I', 9) + b'touch ran'


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Makes a function that writes a pickle and a storage of four floats as torch.save does."""
    monkeypatch.chdir(tmp_path)

    def write(pickled, protocol=2):
        path = tmp_path / 'a.pt'
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr('a/data.pkl', bytes([0x80, protocol]) + pickled + b'.')
            file.writestr('a/version', '3')
            file.writestr('a/data/0', np.arange(4, dtype=np.float32).tobytes())
        return path

    return write


def refused(path, match=None):
    """Checks that a file is refused for a reason and that nothing in it was run."""
    with pytest.raises(InputError, match=match) as caught:
        load_inert(path)
    message = str(caught.value)
    assert message.startswith(f'{path} cannot be read safely: ')
    assert '\n' not in message
    assert sorted(os.listdir(path.parent)) == ['a.pt']


def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def integer(value):
    return b'\x8a\x09' + value.to_bytes(9, 'little', signed=True)


def sequence(*values):
    return b'(' + b''.join(values) + b't'


def reference(module, name):
    return f'c{module}\n{name}\n'.encode()


def call(function, *arguments):
    return function + sequence(*arguments) + b'R'


def storage(kind='storage', count=4):
    return sequence(text(kind), reference('torch', 'FloatStorage'), text('0'), text('cpu'),
                    integer(count)) + b'Q'  # fmt: skip


def tensor(size, stride, offset=0, count=4):
    return call(
        reference('torch._utils', '_rebuild_tensor_v2'),
        storage(count=count),
        integer(offset),
        sequence(*map(integer, size)),
        sequence(*map(integer, stride)),
        b'\x89',
        call(reference('collections', 'OrderedDict')),
    )


def test_tensors_are_read_and_other_objects_are_replaced(write):
    foreign = reference('models.yolo', 'Model') + b')\x81' + b'}' + text('nc') + b'K\x05s' + b'b'
    found = load_inert(write(sequence(tensor([2, 2], [2, 1]), foreign)))
    torch.testing.assert_close(found[0], torch.arange(4.0).view(2, 2))
    assert isinstance(found[1], InertObject)
    assert type(found[1]).__name__ == 'models.yolo.Model'
    assert found[1].state == dict(nc=5)


def test_objects_are_read_without_their_class_and_never_run(tmp_path, monkeypatch):
    class Foreign:
        def __init__(self):
            self.weights = torch.ones(2, dtype=torch.half)

        def __setstate__(self, state):
            raise AssertionError('this must not run')

    Foreign.__module__, Foreign.__qualname__ = 'foreign', 'Foreign'
    module = types.ModuleType('foreign')
    module.Foreign = Foreign
    monkeypatch.setitem(sys.modules, 'foreign', module)
    torch.save([Foreign(), {1, 2}, collections.OrderedDict(a=1)], tmp_path / 'a.pt')
    for _ in ('present', 'gone'):
        foreign, numbers, ordered = load_inert(tmp_path / 'a.pt')
        torch.testing.assert_close(foreign.state['weights'], torch.ones(2, dtype=torch.half))
        assert (numbers, ordered) == ({1, 2}, dict(a=1))
        monkeypatch.delitem(sys.modules, 'foreign', raising=False)


def test_numpy_objects_are_replaced(tmp_path):
    values = dict(best=np.float64(0.5), all=np.zeros(2), old=1)
    torch.save(values, tmp_path / 'a.pt')
    found = load_inert(tmp_path / 'a.pt')
    assert isinstance(found['best'], InertObject)
    assert isinstance(found['all'], InertObject)
    assert found['old'] == 1


def test_constructors_of_older_numpy_are_accepted(write):
    for name in ('scalar', '_reconstruct'):
        path = write(call(reference('numpy.core.multiarray', name), text('any')))
        assert isinstance(load_inert(path), InertObject)


@pytest.mark.skipif(not TORCH_CAN, reason='older versions of torch keep no such list')
def test_classes_that_torch_is_told_to_allow_are_not_created(tmp_path):
    torch.save(HistoryBuffer([1.0], [1]), tmp_path / 'a.pt')
    with torch.serialization.safe_globals([HistoryBuffer, getattr]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(InputError, match='it would call builtins.getattr'):
            load_inert(tmp_path / 'a.pt')
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ('module', 'name', 'message'),
    [
        ('os', 'system', 'os.system'),
        ('posix', 'system', 'posix.system'),
        ('subprocess', 'getoutput', 'it would call subprocess.getoutput'),
        ('__builtin__', 'eval', 'it would call builtins.eval'),
        ('builtins', 'getattr', 'it would call builtins.getattr'),
        ('models.common', 'Conv.__class__', 'it would call models.common.Conv.__class__'),
        ('torch', 'nn.Module.eval', 'it would call torch.nn.Module.eval'),
        ('torch._utils', 'sys.modules.get', 'it would call torch._utils.sys.modules.get'),
        ('torch', 'load', 'it would call torch.load'),
        ('numpy', 'load', 'it would call numpy.load'),
        ('copyreg', '_reconstructor', 'it would call copyreg._reconstructor'),
        ('pathlib', 'PosixPath', 'it would call pathlib.PosixPath'),
    ],
)
def test_call_is_refused_with_its_name(write, module, name, message):
    refused(write(call(reference(module, name), COMMAND)), message)


@pytest.mark.parametrize(
    ('pickled', 'opcode'),
    [
        (text('posix') + text('system') + b'\x93' + sequence(COMMAND) + b'R', 'STACK_GLOBAL'),
        (b'(' + COMMAND + b'iposix\nsystem\n', 'INST'),
        (b'(' + reference('posix', 'system') + COMMAND + b'o', 'OBJ'),
        (reference('subprocess', 'Popen') + sequence(COMMAND) + b'}\x92', 'NEWOBJ_EX'),
        (b'\x82\x01', 'EXT1'),
        (b'\x83\x01\x00', 'EXT2'),
        (b'\x84\x01\x00\x00\x00', 'EXT4'),
        (b'P0\n', 'PERSID'),
    ],
)
def test_other_opcodes_that_call_are_refused(write, pickled, opcode):
    refused(write(pickled, protocol=4), f'opcode {opcode}, which is not allowed')


@pytest.mark.parametrize(
    'target',
    [
        reference('torch._utils', '_rebuild_tensor_v2'),
        reference('collections', 'OrderedDict'),
        reference('torch', 'FloatStorage'),
        reference('models.yolo', 'Model'),
        b'}',
    ],
    ids=['function', 'class', 'storage type', 'stand-in', 'dict'],
)
def test_state_is_set_on_objects_only(write, target):
    state = b'}' + text('__call__') + reference('os.path', 'join') + b's'
    refused(write(target + state + b'b'), 'Can only build')


def test_state_cannot_define_methods_of_a_replaced_object(write):
    """The first state holds a __setstate__, which the second state would call."""
    method = reference('models.yolo', 'Model')
    state = b'}' + text('__setstate__') + method + b's'
    pickled = reference('models.yolo', 'Model') + b')\x81' + state + b'b' + COMMAND + b'b'
    assert load_inert(write(pickled)).state == 'touch ran'


@pytest.mark.parametrize(
    'identity',
    [storage(kind='module'), COMMAND + b'Q', integer(1) + b'Q', b')Q', sequence(COMMAND) + b'Q'],
)
def test_only_storages_may_be_stored_outside_the_pickle(write, identity):
    refused(write(identity))


@pytest.mark.parametrize(
    'pickled',
    [
        tensor([5], [1]),
        tensor([4], [1], offset=1),
        tensor([1], [1], offset=-1),
        tensor([2], [-1], offset=1),
        tensor([-4], [1]),
        tensor([2**33, 2**33], [2**33, 1]),
        tensor([5], [2**62]),
        tensor([8], [1], count=8),
        tensor([1], [1], count=2**60),
    ],
)
def test_tensors_beyond_their_storage_are_refused(write, pickled):
    refused(write(pickled))


@pytest.mark.parametrize('content', [b'', b'text', b'\x89PNG\r\n\x1a\n', b'PK\x03\x04 cut'])
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / 'a.pt'
    path.write_bytes(content)
    refused(path, 'torch.save|zip')


def test_zip_archive_without_a_pickle_is_refused(tmp_path):
    path = tmp_path / 'a.pt'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('a/version', '3')
    refused(path, 'data.pkl')


def test_torchscript_file_is_refused(write):
    path = write(b'N')
    with zipfile.ZipFile(path, 'a') as file:
        file.writestr('a/constants.pkl', b'')
    refused(path, 'TorchScript')


def test_truncated_file_is_refused(write):
    path = write(tensor([4], [1]))
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, 'zip archive')


def test_missing_file_is_reported_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f'a.pt does not exist .*{tmp_path}/a.pt'):
        load_inert('a.pt')
