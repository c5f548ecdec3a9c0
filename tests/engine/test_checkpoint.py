# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib
import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from kapao_mm.engine import (
    check_checkpoint,
    check_training_start,
    checkpoint,
    checkpoint_bytes,
    load_weights,
    write_hashed,
)
from kapao_mm.engine.weights_only import load_weights_only
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
    found = load_weights_only(path)
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


def detector(head=3):
    """A model with the parts of a detector."""
    return nn.ModuleDict(
        dict(backbone=nn.Linear(3, 2), neck=nn.Linear(2, 2), head=nn.Linear(2, head))
    )


@pytest.fixture
def logged(monkeypatch):
    """The lines that are logged."""
    lines = []
    monkeypatch.setattr(checkpoint, 'print_log', lambda line, **_: lines.append(line))
    return lines


@pytest.mark.parametrize('removed', [['head.bias', 'head.weight'], ['head.bias'], []])
def test_training_starts_without_a_head(tmp_path, removed, logged):
    weights = {k: v for k, v in detector().state_dict().items() if k not in removed}
    torch.save(dict(state_dict=weights), tmp_path / 'a.pth')
    check_training_start(tmp_path / 'a.pth', detector())
    assert len(logged) == bool(removed)
    assert all(f'; {len(removed)} weights of the head are missing' in line for line in logged)


def test_training_starts_with_the_head_of_other_keypoints(tmp_path, logged):
    path = save(tmp_path / 'a.pth', detector(head=4))
    check_training_start(path, detector())
    (line,) = logged
    assert line.startswith(f'{path} fills backbone and neck; 2 weights of the head ')


@pytest.mark.parametrize('change', ['missing', 'of another shape'])
def test_training_does_not_start_with_half_a_neck(tmp_path, change):
    weights = detector().state_dict()
    if change == 'missing':
        del weights['neck.bias']
    else:
        weights['neck.bias'] = torch.zeros(5)
    torch.save(dict(state_dict=weights), tmp_path / 'a.pth')
    with pytest.raises(InputError, match='cannot start .* 1 weights .* the first is neck.bias'):
        check_training_start(tmp_path / 'a.pth', detector())


def test_equal_checkpoints_give_equal_bytes(model):
    one, other = (checkpoint_bytes(dict(state_dict=model.state_dict())) for _ in range(2))
    assert one == other


def test_weights_are_loaded_or_refused(tmp_path, model):
    path = save(tmp_path / 'a.pth', model)
    other = nn.Linear(3, 2)
    load_weights(other, path)
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(InputError, match='does not fit the config'):
        load_weights(nn.Linear(4, 2), path)


@pytest.mark.parametrize(
    ('entries', 'said'),
    [
        (dict(meta=[1]), 'has a meta that is no dict'),
        (dict(meta=dict(dataset_meta=3)), 'has a meta that is no dict'),
        (dict(state_dict=[1]), 'has a state_dict that is no dict of named weights'),
        (dict(state_dict={3: torch.zeros(2)}), 'has a state_dict that is no dict of named weights'),
        (dict(state_dict=dict(weight='a')), 'does not fit the config: 2 weights'),
        (
            dict(state_dict=dict(weight=torch.zeros(2, 3, dtype=int), bias=torch.zeros(2))),
            'does not fit the config: 1 weights',
        ),
    ],
)
def test_strange_contents_are_named(tmp_path, model, entries, said):
    path = save(tmp_path / 'a.pth', model, **entries)
    with pytest.raises(InputError, match=said):
        load_weights(model, path)


def test_a_checkpoint_gets_the_hash_of_its_file_in_its_name(tmp_path, model):
    path = write_hashed(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    assert path.name == f'a-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    load_weights(model, path)
