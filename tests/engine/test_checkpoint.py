# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from kapao_mm.engine import check_checkpoint
from kapao_mm.errors import InputError


class RunsOnLoad:
    """A pickle that would run a command."""

    def __reduce__(self):
        return os.system, ('echo this must not run',)


@pytest.fixture
def model():
    return nn.Linear(3, 2)


def save(path, model, **entries):
    torch.save(dict(state_dict=model.state_dict()) | entries, path)
    return path


def test_what_mmengine_writes_can_be_read(tmp_path, model):
    history = HistoryBuffer([1.5, 2.5], [1, 1])
    meta = dict(sigmas=np.full(2, 0.1), flip=np.array([1, 0]), best=np.float64(0.5))
    path = save(tmp_path / 'a.pth', model, meta=meta, message_hub=dict(log_scalars=history))
    check_checkpoint(path, model)
    found = torch.load(path, weights_only=True)
    np.testing.assert_array_equal(found['meta']['sigmas'], meta['sigmas'])
    assert found['message_hub']['log_scalars'].mean() == 2


def test_a_pickle_that_runs_code_is_refused(tmp_path, model, capfd):
    path = save(tmp_path / 'a.pth', model, meta=RunsOnLoad())
    with pytest.raises(InputError, match='a.pth cannot be read safely'):
        check_checkpoint(path, model)
    assert 'this must not run' not in capfd.readouterr().out


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f'missing.pth .*looked at {tmp_path}/missing.pth'):
        check_checkpoint('missing.pth', model)


def test_a_truncated_file_is_named(tmp_path, model):
    path = save(tmp_path / 'a.pth', model)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match='a.pth cannot be read'):
        check_checkpoint(path, model)


@pytest.mark.parametrize('content', [b'', b'no checkpoint'])
def test_a_foreign_file_is_named(tmp_path, model, content):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(InputError, match='a.pth cannot be read'):
        check_checkpoint(path, model)


def test_a_file_without_weights_is_named(tmp_path, model):
    path = tmp_path / 'a.pth'
    torch.save([1, 2], path)
    with pytest.raises(InputError, match='a.pth has no state_dict'):
        check_checkpoint(path, model)


def test_weights_of_another_model_are_named(tmp_path, model):
    path = save(tmp_path / 'a.pth', nn.Linear(3, 4))
    with pytest.raises(InputError, match='2 weights .* the first is weight'):
        check_checkpoint(path, model)


@pytest.mark.parametrize('reached', [(np.ndarray, 'min'), (HistoryBuffer, 'update')])
def test_getattr_gives_the_statistics_of_a_history_only(tmp_path, model, reached):
    class Reaches:
        def __reduce__(self):
            return getattr, reached

    path = save(tmp_path / 'a.pth', model, meta=Reaches())
    with pytest.raises(InputError, match='cannot be read safely'):
        check_checkpoint(path, model)
