# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib

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


def test_objects_that_mmengine_saves_can_be_read(save, model):
    history = HistoryBuffer([1.5, 2.5], [1, 1])
    meta = dict(sigmas=np.full(2, 0.1), flip=np.array([1, 0]), best=np.float64(0.5))
    path = save(model, meta=meta, message_hub=dict(log_scalars=history))
    check_checkpoint(path, model)
    found = load_weights_only(path)
    np.testing.assert_array_equal(found['meta']['sigmas'], meta['sigmas'])
    assert found['message_hub']['log_scalars'].mean() == 2


@pytest.mark.parametrize('target', [(np.ndarray, 'min'), (HistoryBuffer, 'update')])
def test_getattr_returns_only_statistics_of_a_history(save, model, target):
    class GetAttribute:
        def __reduce__(self):
            return getattr, target

    with pytest.raises(InputError, match='cannot be read safely'):
        check_checkpoint(save(model, meta=GetAttribute()), model)


def test_missing_file_is_reported_with_its_absolute_path(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f'missing.pth .*looked at {tmp_path}/missing.pth'):
        check_checkpoint('missing.pth', model)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', 'truncated'])
def test_unreadable_file_is_reported_with_its_path(save, model, content):
    path = save(model)
    path.write_bytes(path.read_bytes()[:-500] if content == 'truncated' else content)
    with pytest.raises(InputError, match='a.pth cannot be read'):
        check_checkpoint(path, model)


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        (dict(meta=[1]), 'is not from MMEngine: its meta is not a dict'),
        (dict(meta=dict(dataset_meta=3)), 'is not from MMEngine: its meta is not a dict'),
        *(
            (dict(state_dict=weights), 'is not from MMEngine: its weights have no names')
            for weights in (None, 3, 'a', [1], {3: torch.zeros(2)}, {None: torch.zeros(2)})
        ),
        *(
            (dict(state_dict=weights), f'does not fit the config: {number} weights')
            for weights, number in (
                ({}, 2),
                (dict(weight='a'), 2),
                *(
                    (dict(weight=weight, bias=torch.zeros(20)), 1)
                    for weight in (None, 'a', [1.0], {}, torch.zeros(7), torch.zeros(20, 30).int())
                ),
            )
        ),
        (dict(state_dict=nn.Linear(3, 4).state_dict()), '2 weights .* the first is weight'),
    ],
)
def test_unsuitable_content_is_reported(save, model, entries, message):
    with pytest.raises(InputError, match=message):
        load_weights(model, save(model, **entries))


def test_file_without_weights_is_reported(tmp_path, model):
    torch.save([1, 2], tmp_path / 'a.pth')
    with pytest.raises(InputError, match='a.pth has no state_dict'):
        check_checkpoint(tmp_path / 'a.pth', model)


def test_weights_are_loaded(save, model):
    other = nn.Linear(30, 20)
    load_weights(other, save(model))
    assert torch.equal(other.weight, model.weight)


def make_detector(head=3):
    return nn.ModuleDict(
        dict(backbone=nn.Linear(3, 2), neck=nn.Linear(2, 2), head=nn.Linear(2, head))
    )


@pytest.fixture
def logged(monkeypatch):
    """The lines that are logged."""
    lines = []
    monkeypatch.setattr(checkpoint, 'print_log', lambda line, **_: lines.append(line))
    return lines


@pytest.mark.parametrize('missing', [['head.bias', 'head.weight'], ['head.bias'], []])
def test_training_starts_without_weights_of_the_head(save, missing, logged):
    weights = {k: v for k, v in make_detector().state_dict().items() if k not in missing}
    check_training_start(save(nn.Module(), state_dict=weights), make_detector())
    assert len(logged) == bool(missing)
    assert all(f'; {len(missing)} weights of the head are missing' in line for line in logged)


def test_training_starts_with_a_head_for_other_keypoints(save, logged):
    path = save(make_detector(head=4))
    check_training_start(path, make_detector())
    (line,) = logged
    assert line.startswith(f'{path} fills backbone and neck; 2 weights of the head ')


@pytest.mark.parametrize('change', [{}, {'neck.bias': torch.zeros(5)}])
def test_training_does_not_start_if_a_weight_of_the_neck_is_missing_or_wrong(save, change):
    weights = make_detector().state_dict()
    del weights['neck.bias']
    with pytest.raises(InputError, match='cannot start .* 1 weights .* the first is neck.bias'):
        check_training_start(save(nn.Module(), state_dict=weights | change), make_detector())


def test_equal_checkpoints_give_equal_bytes(model):
    first, second = (checkpoint_bytes(dict(state_dict=model.state_dict())) for _ in range(2))
    assert first == second


def test_published_file_has_its_hash_in_its_name(tmp_path, model):
    path = write_hashed(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    assert path.name == f'a-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    load_weights(model, path)
