# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib
import os
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

from kapao_mm.engine import download, fetch, load_weights, read_checkpoint
from kapao_mm.engine.download import hash_in_name
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


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('kapao_s-1a2b3c4d.pth', '1a2b3c4d'),
        ('hrnet-c78dce93_20200708.pth', 'c78dce93'),
        ('a-' + '0f' * 32 + '.pt', '0f' * 32),
        ('run-20250131.pth', None),
        ('my-face.pth', None),
        ('epoch_3.pth', None),
    ],
)
def test_the_hash_in_a_name_is_found(name, found):
    assert hash_in_name(name) == found


def test_good_weights_are_downloaded_and_loaded(served, file, model):
    folder, server = served
    other = nn.Linear(30, 20)
    file.rename(folder / 'a.pth')
    load_weights(other, server.url('a.pth'))
    assert torch.equal(other.weight, model.weight)
    assert server.asked == ['/a.pth']  # once, though it was checked before it was loaded


def test_a_download_is_kept_if_its_name_tells_what_it_is(served, file):
    folder, server = served
    name = with_hash(file.rename(folder / 'a.pth')).name
    for _ in range(2):
        download._download.cache_clear()  # as in the next process
        assert fetch(server.url(name)).is_file()
    assert len(server.asked) == 1


def test_a_download_that_is_not_what_its_name_says_is_not_kept(served, file):
    folder, server = served
    file.rename(folder / 'a-1a2b3c4d.pth')
    with pytest.raises(InputError, match='cannot be downloaded: invalid hash value'):
        fetch(server.url('a-1a2b3c4d.pth'))
    assert not [path for path in Path(torch.hub.get_dir()).rglob('*') if path.is_file()]


def test_files_of_one_name_from_two_places_are_two(served, file):
    folder, server = served
    for name in 'xy':
        (folder / name).mkdir()
        torch.save(dict(state_dict=dict(name=torch.tensor(ord(name)))), folder / name / 'a.pth')
    found = [read_checkpoint(server.url(f'{name}/a.pth'))['state_dict'] for name in 'xy']
    assert [chr(weights['name']) for weights in found] == ['x', 'y']


@pytest.mark.parametrize(
    ('place', 'said'),
    [
        ('torchvision://no_such_net', 'no such name is known'),
        ('open-mmlab://no_such_net', 'no such name is known'),
        ('mmcls://no_such_net', 'no such name is known'),
        ('s3://bucket/a.pth', 's3:// cannot be read; download the file'),
        ('file:///tmp/a.pth', 'file:// cannot be read; download the file'),
        ('http://[', r'http://\[ cannot be downloaded: '),
        ('http://127.0.0.1:9/%00.pth', 'cannot be downloaded: '),
        (f'http://127.0.0.1:9/{"a" * 5000}-1a2b3c4d.pth', 'cannot be downloaded: '),
        ('http://127.0.0.1:9/a.pth', 'http://127.0.0.1:9/a.pth cannot be downloaded: '),
    ],
)
def test_places_that_hold_nothing_are_named(place, said, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    for read in (read_checkpoint, lambda place: load_checkpoint(nn.Module(), place)):
        with pytest.raises(InputError, match=said):
            read(place)


def test_a_model_of_the_openmmlab_list_is_read_safely(served, tmp_path, model, monkeypatch):
    folder, server = served
    torch.save(dict(state_dict=Runs(tmp_path / 'ran')), folder / 'a.pth')
    listed = dict(net=server.url('a.pth'))
    monkeypatch.setattr(download.checkpoint, 'get_external_models', lambda: listed)
    with pytest.raises(InputError, match='cannot be read safely'):
        load_checkpoint(model, 'open-mmlab://net')
    assert not (tmp_path / 'ran').exists()
