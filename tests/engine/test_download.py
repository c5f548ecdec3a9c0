# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from torch import nn

from kapao_mm.engine import download, fetch, load_weights, read_checkpoint
from kapao_mm.engine.download import hash_in_name
from kapao_mm.errors import InputError


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
def test_hash_in_a_file_name_is_found(name, found):
    assert hash_in_name(name) == found


def test_weights_are_downloaded_once_and_loaded(served, save, model):
    folder, server = served
    other = nn.Linear(30, 20)
    save(model).rename(folder / 'a.pth')
    load_weights(other, server.url('a.pth'))
    assert torch.equal(other.weight, model.weight)
    assert server.asked == ['/a.pth']  # once, although it was checked before it was loaded


def test_download_with_a_hash_in_its_name_is_reused_by_later_processes(
    served, save, model, add_hash
):
    folder, server = served
    name = add_hash(save(model).rename(folder / 'a.pth')).name
    for _ in range(2):
        download._download.cache_clear()  # as in a new process
        assert fetch(server.url(name)).is_file()
    assert len(server.asked) == 1


def test_download_that_does_not_match_its_hash_is_removed(served, save, model):
    folder, server = served
    save(model).rename(folder / 'a-1a2b3c4d.pth')
    with pytest.raises(InputError, match='cannot be downloaded: invalid hash value'):
        fetch(server.url('a-1a2b3c4d.pth'))
    assert not [path for path in Path(torch.hub.get_dir()).rglob('*') if path.is_file()]


def test_files_with_equal_names_from_two_folders_are_kept_apart(served):
    folder, server = served
    for name in 'xy':
        (folder / name).mkdir()
        torch.save(dict(state_dict=dict(name=torch.tensor(ord(name)))), folder / name / 'a.pth')
    found = [read_checkpoint(server.url(f'{name}/a.pth'))['state_dict'] for name in 'xy']
    assert [chr(weights['name']) for weights in found] == ['x', 'y']


@pytest.mark.parametrize(
    ('place', 'message'),
    [
        ('torchvision://no_such_net', 'the name is unknown'),
        ('open-mmlab://no_such_net', 'the name is unknown'),
        ('mmcls://no_such_net', 'the name is unknown'),
        ('s3://bucket/a.pth', 's3:// cannot be read; download the file'),
        ('file:///tmp/a.pth', 'file:// cannot be read; download the file'),
        ('http://[', r'http://\[ cannot be downloaded: '),
        ('http://127.0.0.1:9/%00.pth', 'cannot be downloaded: '),
        (f'http://127.0.0.1:9/{"a" * 5000}-1a2b3c4d.pth', 'cannot be downloaded: '),
        ('http://127.0.0.1:9/a.pth', 'http://127.0.0.1:9/a.pth cannot be downloaded: '),
    ],
)
def test_failed_download_is_reported(place, message, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    for read in (read_checkpoint, lambda place: load_checkpoint(nn.Module(), place)):
        with pytest.raises(InputError, match=message):
            read(place)


def test_model_from_the_openmmlab_list_is_read_safely(served, malicious, model, monkeypatch):
    folder, server = served
    torch.save(dict(state_dict=malicious), folder / 'a.pth')
    models = dict(net=server.url('a.pth'))
    monkeypatch.setattr(download.checkpoint, 'get_external_models', lambda: models)
    with pytest.raises(InputError, match='cannot be read safely'):
        load_checkpoint(model, 'open-mmlab://net')
