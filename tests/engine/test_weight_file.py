# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pickle
import struct
import sys
import types
import zipfile

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from torch import nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from kapao_mm.engine import load_weights, read_checkpoint
from kapao_mm.engine.weight_file import read_weight_file
from kapao_mm.engine.weights_only import TORCH_CAN
from kapao_mm.errors import InputError


def test_file_that_matches_the_hash_in_its_name_is_read(save, add_hash, model):
    load_weights(nn.Linear(30, 20), add_hash(save(model)))


def test_file_that_does_not_match_the_hash_in_its_name_is_refused(save, add_hash, model):
    path = add_hash(save(model), '1a2b3c4d')
    with pytest.raises(InputError, match=f'{path} is damaged or was renamed: its name'):
        load_weights(model, path)


@pytest.mark.parametrize('read', [read_checkpoint, lambda path: load_checkpoint(nn.Module(), path)])
def test_64_inverted_bytes_are_detected(save, model, read):
    file = save(model)
    content = bytearray(file.read_bytes())
    start = content.index(torch.load(file)['state_dict']['weight'].numpy().tobytes())
    content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
    file.write_bytes(content)
    assert torch.load(file)['state_dict']['weight'].shape == (20, 30)  # torch does not detect them
    with pytest.raises(InputError, match='it is damaged: the checksum of .*data/0 is wrong'):
        read(str(file))


def test_file_that_changed_is_checked_again(save, model):
    file = save(model)
    load_weights(model, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match='is damaged'):
        load_weights(model, file)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('part', ['state_dict', 'ema_state_dict', 'half', 'weights alone'])
def test_first_weight_that_is_not_finite_is_named(tmp_path, model, value, part):
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights['bias'][3] = value
    content = {'state_dict': model.state_dict()} | {part: weights}
    if part == 'half':
        content['state_dict'] = {name: weight.half() for name, weight in weights.items()}
    torch.save(weights if part == 'weights alone' else content, tmp_path / 'a.pth')
    for read in (read_weight_file, lambda path: load_checkpoint(model, str(path))):
        with pytest.raises(InputError, match='1 weights are not finite, the first is bias'):
            read(tmp_path / 'a.pth')


@pytest.mark.filterwarnings('ignore:Sparse invariant checks')
@pytest.mark.parametrize(
    ('tensor', 'message'),
    [
        (torch.zeros(1).expand(2**40), 'a claims to be larger than the file'),
        (torch.ones(3).to_sparse(), 'a is a sparse tensor'),
        (torch.empty(3, device='meta'), 'cannot be read safely'),
    ],
    ids=['huge', 'sparse', 'meta'],
)
def test_unusual_tensors_are_refused(tmp_path, tensor, message):
    torch.save(dict(state_dict=dict(a=tensor)), tmp_path / 'a.pth')
    if tensor.is_sparse and not TORCH_CAN:
        message = 'cannot be read safely'
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / 'a.pth')


def test_compressed_file_is_refused(save, model):
    file = save(model)
    packed = file.with_name('packed.pth')
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, 'w') as target:
        for name in source.namelist():
            target.writestr(name, b'\0' * 10**6, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match='its parts are compressed or overlap'):
        read_checkpoint(packed)


@pytest.mark.parametrize('old', [False, True])
def test_nested_tuples_are_refused_before_they_are_hashed(tmp_path, old):
    """Each level doubles the time: 22 levels take a second, 60 would never end."""
    pickled = b'\x80\x02})q\x00' + b'h\x00h\x00\x86q\x00' * 22 + b'K\x01s.'
    if old:
        parts = (pickle.dumps(part, 2) for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {}))
        (tmp_path / 'a.pth').write_bytes(b''.join(parts) + pickled)
    else:
        with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
            archive.writestr('a/data.pkl', pickled)
            archive.writestr('a/version', '3')
    with pytest.raises(InputError, match='its tuples hold more objects than the file has bytes'):
        read_checkpoint(tmp_path / 'a.pth')


def test_torchscript_file_is_refused(tmp_path, model):
    path = str(tmp_path / 'a.pt')
    torch.jit.trace(model, torch.zeros(1, 30)).save(path)
    with pytest.raises(InputError, match='it is a TorchScript file; use the checkpoint'):
        read_checkpoint(path)


@pytest.mark.skipif(not TORCH_CAN, reason='only torch 2.6 and later read this format safely')
def test_file_in_the_old_format_of_torch_is_read(tmp_path, model):
    content = dict(state_dict=model.state_dict())
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    other = nn.Linear(30, 20)
    load_weights(other, tmp_path / 'a.pth')
    assert torch.equal(other.weight, model.weight)


def test_released_model_is_refused_with_the_command_that_converts_it(tmp_path, monkeypatch):
    class Model(nn.Module):
        pass

    Model.__module__, Model.__qualname__ = 'models', 'Model'
    monkeypatch.setitem(sys.modules, 'models', types.ModuleType('models'))
    sys.modules['models'].Model = Model
    path = tmp_path / 'kapao_s.pt'
    torch.save(dict(model=Model()), path)
    with pytest.raises(InputError, match=f'kapao convert {path} kapao_s.pth$'):
        read_checkpoint(path)


def init_backbone(place):
    """Loads weights as ``init_cfg`` in a config does."""
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=place))
    module.linear = nn.Linear(30, 20)
    module.init_weights()


READERS = {
    'load_weights': lambda place: load_weights(nn.Linear(30, 20), place),
    'MMEngine': lambda place: load_checkpoint(nn.Linear(30, 20), place),
    'init_cfg': init_backbone,
}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('remote', [True, False])
def test_code_in_a_weight_file_is_not_run(served, malicious, model, reader, remote):
    folder, server = served
    torch.save(dict(meta=malicious, state_dict=model.state_dict()), folder / 'a.pth')
    with pytest.raises(InputError, match='a.pth cannot be read safely: .*posix.mkdir'):
        READERS[reader](server.url('a.pth') if remote else str(folder / 'a.pth'))


@pytest.mark.parametrize('position', ['meta', 'state_dict', 'more', 'weight', 'name'])
@pytest.mark.parametrize('zipped', [True, False])
def test_code_at_any_position_in_a_checkpoint_is_not_run(save, malicious, model, position, zipped):
    special = dict(
        weight=dict(state_dict=model.state_dict() | dict(bias=malicious)),
        name=dict(meta={malicious: 1}),
    )
    path = save(model, zipped=zipped, **special.get(position, {position: [malicious]}))
    with pytest.raises(InputError, match='a.pth cannot be read safely'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    'program',
    [
        b'cos\nmkdir\nTEXT\x85R',
        b'cposix\nmkdir\nTEXT\x85R',
        b'(TEXTios\nmkdir\n',
        b'(cos\nmkdir\nTEXTo',
        b'cbuiltins\ngetattr\ncos\nsystem\nTEXT\x86R',
        b'cbuiltins\neval\nTEXT\x85R',
        b'cpathlib\nPath\nTEXT\x85R',
        b'cmmengine.logging.history_buffer\nHistoryBuffer\nTEXT\x85R',
        b'cnumpy.core.multiarray\n_reconstruct\nTEXT\x85R',
    ],
)
def test_pickle_that_calls_is_refused(tmp_path, program):
    canary = str(tmp_path / 'ran').encode()
    text = b'X' + struct.pack('<I', len(canary)) + canary
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x02' + program.replace(b'TEXT', text) + b'.')
        archive.writestr('a/version', '3')
    with pytest.raises(InputError, match='a.pth '):
        read_checkpoint(tmp_path / 'a.pth')
    assert not (tmp_path / 'ran').exists()
