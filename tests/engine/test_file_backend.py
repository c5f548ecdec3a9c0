# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno
import os

import pytest
from mmengine.fileio import get_file_backend

from kapao_mm.errors import InputError


@pytest.fixture
def backend():
    return get_file_backend(backend_args=dict(backend='atomic'))


def test_bytes_and_text_are_written(backend, tmp_path):
    backend.put(b'weights', tmp_path / 'new/a.pth')
    backend.put_text('ä', tmp_path / 'b')
    assert (tmp_path / 'new/a.pth').read_bytes() == b'weights'
    assert (tmp_path / 'b').read_text(encoding='utf-8') == 'ä'
    assert len(list(tmp_path.rglob('*'))) == 3


@pytest.mark.parametrize('write', ['put', 'put_text'])
def test_a_kill_while_writing_leaves_the_old_content(backend, tmp_path, monkeypatch, write):
    path = tmp_path / 'last_checkpoint'
    path.write_text('old')

    def kill(file):
        raise KeyboardInterrupt

    content = b'new' if write == 'put' else 'new'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, 'fsync', kill)
        getattr(backend, write)(content, path)
    assert path.read_text() == 'old'
    getattr(backend, write)(content, path)  # over what the kill left
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == 'new'


def test_a_full_disk_is_named_and_leaves_the_old_content(backend, tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.ENOSPC, 'No space left on device')

    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'old')
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(InputError, match='epoch_1.pth cannot be written: No space left'):
        backend.put(b'new', path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b'old'
