# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib
import os
import pickle
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


@pytest.fixture
def model():
    return nn.Linear(30, 20)


@pytest.fixture
def file(tmp_path, model):
    """A good checkpoint."""
    path = tmp_path / 'a.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path


def with_hash(path, digest=None):
    """Renames a file as publish_model.py names it."""
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_stem(f'{path.stem}-{digest}'))


class Runs:
    """A pickle that would make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_file_that_is_what_its_name_says_is_read(file, model):
    load_weights(nn.Linear(30, 20), with_hash(file))


def test_a_file_that_is_not_what_its_name_says_is_refused(file, model):
    path = with_hash(file, '1a2b3c4d')
    with pytest.raises(InputError, match=f'{path} is damaged, or another file than its name says'):
        load_weights(model, path)


@pytest.mark.parametrize('read', [read_checkpoint, lambda path: load_checkpoint(nn.Module(), path)])
def test_64_inverted_bytes_are_noticed(file, read):
    content = bytearray(file.read_bytes())
    start = content.index(torch.load(file)['state_dict']['weight'].numpy().tobytes())
    content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
    file.write_bytes(content)
    assert torch.load(file)['state_dict']['weight'].shape == (20, 30)  # torch does not
    with pytest.raises(InputError, match='it is damaged, the checksum of .*data/0 is wrong'):
        read(str(file))


def test_a_file_that_changes_is_checked_again(file, model):
    load_weights(model, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match='is damaged'):
        load_weights(model, file)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('part', ['state_dict', 'ema_state_dict', 'half', 'weights alone'])
def test_weights_that_are_not_finite_are_named(tmp_path, model, value, part):
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
    ('tensor', 'said'),
    [
        (torch.zeros(1).expand(2**40), 'a claims to be larger than the file'),
        (torch.ones(3).to_sparse(), 'a is a sparse tensor'),
        (torch.empty(3, device='meta'), 'cannot be read safely'),
    ],
    ids=['huge', 'sparse', 'meta'],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path, tensor, said):
    torch.save(dict(state_dict=dict(a=tensor)), tmp_path / 'a.pth')
    if tensor.is_sparse and not TORCH_CAN:
        said = 'cannot be read safely'
    with pytest.raises(InputError, match=said):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_compressed_file_is_refused(file):
    packed = file.with_name('packed.pth')
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, 'w') as target:
        for name in source.namelist():
            target.writestr(name, b'\0' * 10**6, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match='its parts are compressed or overlap'):
        read_checkpoint(packed)


@pytest.mark.parametrize('old', [False, True])
def test_tuples_that_double_are_refused_before_they_are_hashed(tmp_path, old):
    """22 of them take a second, and 60 for ever."""
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


def test_a_torchscript_file_is_named(tmp_path, model):
    path = str(tmp_path / 'a.pt')
    torch.jit.trace(model, torch.zeros(1, 30)).save(path)
    with pytest.raises(InputError, match='it is a torchscript file; give what it was exported'):
        read_checkpoint(path)


@pytest.mark.skipif(not TORCH_CAN, reason='only torch 2.6 and later read this format safely')
def test_files_of_old_torch_are_read(tmp_path, model):
    content = dict(state_dict=model.state_dict())
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    other = nn.Linear(30, 20)
    load_weights(other, tmp_path / 'a.pth')
    assert torch.equal(other.weight, model.weight)


def test_a_released_model_names_the_converter(tmp_path, monkeypatch):
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
    """Loads weights as a config's ``init_cfg`` does."""
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
def test_nothing_in_a_weight_file_is_run(served, tmp_path, model, reader, remote):
    folder, server = served
    torch.save(dict(meta=Runs(tmp_path / 'ran'), state_dict=model.state_dict()), folder / 'a.pth')
    with pytest.raises(InputError, match='a.pth cannot be read safely: .*posix.mkdir'):
        READERS[reader](server.url('a.pth') if remote else str(folder / 'a.pth'))
    assert not (tmp_path / 'ran').exists()
