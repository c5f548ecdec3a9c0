# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from kapao_mm.engine import SafeCheckpointHook
from kapao_mm.errors import InputError


class Killed(Exception):
    """Stands for a kill."""


class KillInSave(Hook):
    """Ends the run when half of a file is written, at the n-th checkpoint of the run."""

    def __init__(self, nth, monkeypatch):
        self.left, self.monkeypatch = nth, monkeypatch

    def before_save_checkpoint(self, runner, checkpoint):
        self.left -= 1
        if self.left == 0:
            self.monkeypatch.setattr(os, 'fsync', self.kill)

    def kill(self, file):
        os.ftruncate(file, 100)
        self.monkeypatch.undo()
        raise Killed


def files(folder):
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix != '.py')


def read(path):
    return torch.load(path, weights_only=True)


def info(path):
    return read(path)['message_hub']['runtime_info']


def test_the_last_and_the_best_are_kept(make_run, tmp_path):
    make_run(tmp_path, scores=[0.2, 0.1, 0.4, 0.3], max_keep_ckpts=2).train()
    kept = ['best_coco_AP_epoch_3.pth', 'epoch_3.pth', 'epoch_4.pth', 'last_checkpoint']
    assert files(tmp_path) == kept
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')


def test_all_are_kept_without_a_limit(make_run, tmp_path):
    make_run(tmp_path, save_best=None).train()
    assert files(tmp_path) == [f'epoch_{n}.pth' for n in (1, 2, 3, 4)] + ['last_checkpoint']


def test_only_epochs_with_a_checkpoint_are_written_after_validation(make_run, tmp_path):
    make_run(tmp_path, interval=2).train()
    assert files(tmp_path)[1:] == ['epoch_2.pth', 'epoch_4.pth', 'last_checkpoint']


def test_a_checkpoint_knows_its_place_and_the_best(make_run, tmp_path):
    make_run(tmp_path, scores=[0.1, 0.4, 0.2, 0.3], max_keep_ckpts=2).train()
    for epoch in (3, 4):
        path = tmp_path / f'epoch_{epoch}.pth'
        assert read(path)['meta']['epoch'] == epoch
        assert read(path)['meta']['iter'] == 4 * epoch
        assert info(path)['best_score'] == 0.4
        assert Path(info(path)['best_ckpt']).name == 'best_coco_AP_epoch_2.pth'
        assert info(path)['keep_ckpt_ids'] == [epoch - 1, epoch]


@pytest.mark.parametrize('save_best', ['coco/AP', 'auto'])
def test_an_ap_of_nothing_to_find_is_never_the_best(make_run, tmp_path, save_best):
    make_run(tmp_path, scores=[-1.0, -1.0], max_epochs=2, save_best=save_best).train()
    assert files(tmp_path) == ['epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']
    assert 'best_score' not in info(tmp_path / 'epoch_2.pth')


def test_a_best_ap_that_was_resumed_is_not_replaced_by_a_lower_one(make_run, tmp_path):
    make_run(tmp_path, scores=[0.1, 0.4], max_epochs=2).train()
    make_run(tmp_path, scores=[0.1, 0.4, 0.2, 0.3], resume=True).train()
    assert files(tmp_path)[0] == 'best_coco_AP_epoch_2.pth'
    make_run(tmp_path, scores=[0.1, 0.4, 0.2, 0.3, 0.5], resume=True, max_epochs=5).train()
    assert [name for name in files(tmp_path) if 'best' in name] == ['best_coco_AP_epoch_5.pth']


def test_a_crash_in_validation_loses_neither_the_epoch_nor_its_ap(make_run, tmp_path):
    with pytest.raises(Killed):
        make_run(tmp_path, scores=[0.1, Killed()]).train()
    assert 'epoch_2.pth' in files(tmp_path)
    # Epoch 2 is validated before epoch 3.
    with pytest.raises(Killed):
        make_run(tmp_path, scores=[0.1, 0.4, Killed()], resume=True).train()
    assert info(tmp_path / 'epoch_2.pth')['best_score'] == 0.4
    assert files(tmp_path)[0] == 'best_coco_AP_epoch_2.pth'


def test_a_validation_is_made_up_for_once(make_run, tmp_path):
    with pytest.raises(Killed):
        make_run(tmp_path, scores=[0.1, 0.2, 0.3, Killed()]).train()
    make_run(tmp_path, resume=True).train()  # nothing but the last validation is missing
    assert info(tmp_path / 'epoch_4.pth')['best_score'] == 0.4
    scores = [Killed()] * 4
    make_run(tmp_path, scores=scores, resume=True).train()


# In the order of writing: epoch 1, the best, epoch 1 again; then the same of epoch 2.
@pytest.mark.parametrize(('nth', 'last', 'best'), [(4, 1, 1), (5, 2, 1), (6, 2, 2)])
def test_a_kill_while_writing_leaves_the_previous_checkpoints(
    make_run, tmp_path, monkeypatch, nth, last, best
):
    kill = KillInSave(nth, monkeypatch)
    with pytest.raises(Killed):
        make_run(tmp_path, hooks=[kill], max_keep_ckpts=1).train()
    for path in tmp_path.glob('*.pth'):
        read(path)  # is whole
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / f'epoch_{last}.pth')
    assert {f'epoch_{last}.pth', f'best_coco_AP_epoch_{best}.pth'} <= {*files(tmp_path)}
    assert len([name for name in files(tmp_path) if name.endswith('.partial')]) == 1

    make_run(tmp_path, max_keep_ckpts=1, resume=True).train()
    assert files(tmp_path) == ['best_coco_AP_epoch_4.pth', 'epoch_4.pth', 'last_checkpoint']


def test_a_kill_before_an_old_checkpoint_is_removed_leaves_it_to_the_resumed_run(
    make_run, tmp_path, monkeypatch
):
    def kill(self, path):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SafeCheckpointHook, '_remove', kill)
        make_run(tmp_path, save_best=None, max_keep_ckpts=1).train()
    assert files(tmp_path) == ['epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']
    make_run(tmp_path, save_best=None, max_keep_ckpts=1, max_epochs=2, resume=True).train()
    assert files(tmp_path) == ['epoch_2.pth', 'last_checkpoint']


def test_what_a_kill_left_half_written_is_removed(make_run, tmp_path):
    (tmp_path / 'epoch_9.pth.partial').write_bytes(b'half')
    make_run(tmp_path, max_epochs=1, save_best=None).train()
    assert files(tmp_path) == ['epoch_1.pth', 'last_checkpoint']


def test_more_than_one_best_is_refused():
    with pytest.raises(InputError, match=r"one metric, not of \['AP', 'AR'\]"):
        SafeCheckpointHook(save_best=['AP', 'AR'])
