# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import errno
import os

import pytest
from mmengine.fileio import get_file_backend

from kapao_mm.errors import InputError


@pytest.fixture
def backend():
    return get_file_backend(backend_args=dict(backend='atomic'))


def test_bytes_and_text_are_written_and_the_folder_is_created(backend, tmp_path):
    backend.put(b'weights', tmp_path / 'new/a.pth')
    backend.put_text('ä', tmp_path / 'b')
    assert (tmp_path / 'new/a.pth').read_bytes() == b'weights'
    assert (tmp_path / 'b').read_text(encoding='utf-8') == 'ä'
    assert len(list(tmp_path.rglob('*'))) == 3


@pytest.mark.parametrize('write', ['put', 'put_text'])
@pytest.mark.parametrize(
    ('failure', 'error', 'message'),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (
            OSError(errno.ENOSPC, 'No space left on device'),
            InputError,
            'a.pth cannot be written: No space left on device',
        ),
    ],
)
def test_failed_write_keeps_the_old_content(
    backend, tmp_path, monkeypatch, write, failure, error, message
):
    path = tmp_path / 'a.pth'
    path.write_text('old')

    def fail(file):
        raise failure

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(error, match=message):
        getattr(backend, write)(b'new' if write == 'put' else 'new', path)
    assert path.read_text() == 'old'
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
