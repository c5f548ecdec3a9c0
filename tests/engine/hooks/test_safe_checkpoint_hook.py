# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from kapao_mm.engine import SafeCheckpointHook
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError


class Killed(Exception):
    """Raised in place of a kill."""


class KillInSave(Hook):
    """Ends the run while it writes its n-th checkpoint."""

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


def info(path):
    return load_weights_only(path)['message_hub']['runtime_info']


def test_last_and_best_checkpoints_are_kept(make_run, tmp_path):
    make_run(tmp_path, scores=[0.2, 0.1, 0.4, 0.3], max_keep_ckpts=2).train()
    kept = ['best_coco_AP_epoch_3.pth', 'epoch_3.pth', 'epoch_4.pth', 'last_checkpoint']
    assert files(tmp_path) == kept
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')


def test_all_checkpoints_are_kept_without_a_limit(make_run, tmp_path):
    make_run(tmp_path, save_best=None).train()
    assert files(tmp_path) == [f'epoch_{n}.pth' for n in (1, 2, 3, 4)] + ['last_checkpoint']


def test_validation_does_not_add_checkpoints_between_intervals(make_run, tmp_path):
    make_run(tmp_path, interval=2).train()
    assert files(tmp_path)[1:] == ['epoch_2.pth', 'epoch_4.pth', 'last_checkpoint']


def test_checkpoint_stores_its_epoch_and_the_best(make_run, tmp_path):
    make_run(tmp_path, scores=[0.1, 0.4, 0.2, 0.3], max_keep_ckpts=2).train()
    for epoch in (3, 4):
        path = tmp_path / f'epoch_{epoch}.pth'
        meta = load_weights_only(path)['meta']
        assert (meta['epoch'], meta['iter']) == (epoch, 4 * epoch)
        assert info(path)['best_score'] == 0.4
        assert Path(info(path)['best_ckpt']).name == 'best_coco_AP_epoch_2.pth'
        assert info(path)['keep_ckpt_ids'] == [epoch - 1, epoch]


@pytest.mark.parametrize('save_best', ['coco/AP', 'auto'])
def test_ap_without_ground_truth_is_never_the_best(make_run, tmp_path, save_best):
    make_run(tmp_path, scores=[-1.0, -1.0], max_epochs=2, save_best=save_best).train()
    assert files(tmp_path) == ['epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']
    assert 'best_score' not in info(tmp_path / 'epoch_2.pth')


def test_resumed_best_ap_is_not_replaced_by_a_lower_one(make_run, tmp_path):
    make_run(tmp_path, scores=[0.1, 0.4], max_epochs=2).train()
    make_run(tmp_path, scores=[0.1, 0.4, 0.2, 0.3], resume=True).train()
    assert files(tmp_path)[0] == 'best_coco_AP_epoch_2.pth'
    make_run(tmp_path, scores=[0.1, 0.4, 0.2, 0.3, 0.5], resume=True, max_epochs=5).train()
    assert [name for name in files(tmp_path) if 'best' in name] == ['best_coco_AP_epoch_5.pth']


def test_crash_in_validation_keeps_the_epoch_and_repeats_the_validation(make_run, tmp_path):
    with pytest.raises(Killed):
        make_run(tmp_path, scores=[0.1, Killed()]).train()
    assert 'epoch_2.pth' in files(tmp_path)
    # Epoch 2 is validated before epoch 3.
    with pytest.raises(Killed):
        make_run(tmp_path, scores=[0.1, 0.4, Killed()], resume=True).train()
    assert info(tmp_path / 'epoch_2.pth')['best_score'] == 0.4
    assert files(tmp_path)[0] == 'best_coco_AP_epoch_2.pth'


def test_missing_validation_is_repeated_once(make_run, tmp_path):
    with pytest.raises(Killed):
        make_run(tmp_path, scores=[0.1, 0.2, 0.3, Killed()]).train()
    make_run(tmp_path, resume=True).train()  # only the last validation is missing
    assert info(tmp_path / 'epoch_4.pth')['best_score'] == 0.4
    make_run(tmp_path, scores=[Killed()] * 4, resume=True).train()


# Each epoch writes its checkpoint, the best one, and its checkpoint again.
@pytest.mark.slow
@pytest.mark.parametrize(('nth', 'last', 'best'), [(4, 1, 1), (5, 2, 1), (6, 2, 2)])
def test_kill_while_writing_keeps_the_previous_checkpoints(
    make_run, tmp_path, monkeypatch, nth, last, best
):
    kill = KillInSave(nth, monkeypatch)
    with pytest.raises(Killed):
        make_run(tmp_path, hooks=[kill], max_keep_ckpts=1).train()
    for path in tmp_path.glob('*.pth'):
        load_weights_only(path)  # is complete
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / f'epoch_{last}.pth')
    assert {f'epoch_{last}.pth', f'best_coco_AP_epoch_{best}.pth'} <= {*files(tmp_path)}

    make_run(tmp_path, max_keep_ckpts=1, resume=True).train()
    assert files(tmp_path) == ['best_coco_AP_epoch_4.pth', 'epoch_4.pth', 'last_checkpoint']


def test_outdated_checkpoint_of_a_killed_run_is_removed_by_the_resumed_run(
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


def test_partial_files_of_a_killed_run_are_removed_and_others_are_kept(make_run, tmp_path):
    own = ('epoch_9.pth', 'best_coco_AP_epoch_2.pth', 'last_checkpoint', 'non_finite_iter_3.pth')
    for folder, name in (*enumerate(own), (0, 'thesis.pdf')):
        partial = tmp_path / f'.{folder}.partial'
        partial.mkdir(exist_ok=True)
        (partial / name).touch()
    make_run(tmp_path, max_epochs=1, save_best=None).train()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.glob('.*/*')] == [
        '.0.partial/thesis.pdf'
    ]
    assert len(list(tmp_path.glob('.*.partial'))) == 1


def test_several_best_metrics_are_refused():
    with pytest.raises(InputError, match=r"save_best is \['AP', 'AR'\]; set a single metric"):
        SafeCheckpointHook(save_best=['AP', 'AR'])


def resume(make_run, folder, scores, **options):
    """Trains a third epoch from the second one in a folder."""
    start = str(folder / 'epoch_2.pth')
    make_run(folder, resume=start, scores=scores, max_epochs=3, **options).train()


@pytest.fixture
def trained(make_run, tmp_path):
    """The folder of a run with two epochs; the second is the best."""
    folder = tmp_path / 'trained'
    make_run(folder, scores=[0.1, 0.2], max_epochs=2, max_keep_ckpts=2).train()
    return folder


def change_info(folder, **infos):
    """Changes the information about the run in the checkpoint of epoch 2."""
    checkpoint = load_weights_only(folder / 'epoch_2.pth')
    checkpoint['message_hub']['runtime_info'] |= infos
    torch.save(checkpoint, folder / 'epoch_2.pth')


@pytest.mark.parametrize('kind', ['file', 'folder', 'file of another run', 'link to a folder'])
def test_only_files_of_the_run_are_removed(make_run, trained, tmp_path, kind):
    foreign = tmp_path / 'other' / ('best_coco_AP_epoch_1.pth' if 'run' in kind else 'thesis')
    foreign.parent.mkdir()
    if 'folder' in kind:
        foreign.mkdir()
        (foreign / 'text').write_text('precious')
    else:
        foreign.write_text('precious')
    if 'link' in kind:
        link = trained / 'best_coco_AP_epoch_1.pth'
        link.symlink_to(foreign)
        change_info(trained, best_ckpt=str(link))
    else:
        change_info(trained, best_ckpt=str(foreign))
    resume(make_run, trained, scores=[0.1, 0.2, 0.3])
    assert (foreign / 'text' if 'folder' in kind else foreign).read_text() == 'precious'
    assert (trained / 'best_coco_AP_epoch_3.pth').is_file()


def test_resumed_copy_of_a_folder_does_not_change_the_original(make_run, trained, tmp_path):
    before = {path: path.read_bytes() for path in trained.glob('*.pth')}
    copy = tmp_path / 'copy'
    shutil.copytree(trained, copy)
    resume(make_run, copy, scores=[0.1, 0.2, 0.3], max_keep_ckpts=2)
    assert {path: path.read_bytes() for path in trained.glob('*.pth')} == before
    kept = ['best_coco_AP_epoch_3.pth', 'epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']
    assert files(copy) == kept
    assert Path(info(copy / 'epoch_3.pth')['best_ckpt']).parent == copy


def test_run_continues_without_its_best_checkpoint(make_run, trained, capsys):
    (trained / 'best_coco_AP_epoch_2.pth').unlink()
    options = dict(published_keys=['state_dict'], log_level='INFO')
    resume(make_run, trained, scores=[0.1, 0.2, 0.1], **options)
    assert 'best_coco_AP_epoch_2.pth, is not in this folder' in ''.join(capsys.readouterr())
    assert not list(trained.glob('best*'))
    assert list(trained.glob('epoch_3-*.pth'))


@pytest.mark.parametrize('steps', [['../../../x', 1], 'abc', 7, [None, 1, True]])
def test_invalid_steps_in_a_checkpoint_remove_nothing(make_run, trained, steps):
    victim = trained.parent / 'x.pth'
    victim.touch()
    (trained / 'epoch_..').mkdir()  # part of the path of the first invalid step
    change_info(trained, keep_ckpt_ids=steps)
    resume(make_run, trained, scores=[0.1, 0.2, 0.0], max_keep_ckpts=1)
    assert victim.exists()
    assert 'epoch_3.pth' in files(trained)


def test_resumed_run_with_a_lower_limit_removes_the_oldest(make_run, trained):
    resume(make_run, trained, scores=[0.1, 0.2, 0.0], max_keep_ckpts=1)
    assert files(trained) == ['best_coco_AP_epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']
    assert info(trained / 'epoch_3.pth')['keep_ckpt_ids'] == [3]


@pytest.mark.parametrize('start', ['anew', 'auto', 'elsewhere'])
def test_run_does_not_overwrite_another_one(make_run, trained, tmp_path, start):
    """It starts anew, finds no last_checkpoint, or was resumed from another folder."""
    before = {path: path.read_bytes() for path in trained.glob('*.pth')}
    source = dict(anew=False, auto=True)
    if start == 'auto':
        (trained / 'last_checkpoint').unlink()
    elif start == 'elsewhere':
        shutil.copy(trained / 'epoch_1.pth', tmp_path)
        source['elsewhere'] = str(tmp_path / 'epoch_1.pth')
    message = r'trained has checkpoints .* \(3, such as best_coco_AP_epoch_2'
    with pytest.raises(InputError, match=message):
        make_run(trained, resume=source[start], max_keep_ckpts=1).train()
    assert {path: path.read_bytes() for path in trained.glob('*.pth')} == before


def test_overwrite_allows_overwriting_another_run(make_run, trained):
    make_run(trained, max_epochs=1, overwrite=True).train()
    assert load_weights_only(trained / 'epoch_1.pth')['meta']['experiment_name']
    assert (trained / 'last_checkpoint').read_text() == str(trained / 'epoch_1.pth')


def test_published_checkpoint_has_the_hash_of_its_file(make_run, tmp_path):
    make_run(tmp_path, max_epochs=1, save_best=None, published_keys=['meta', 'state_dict']).train()
    (path,) = tmp_path.glob('epoch_1-*.pth')
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:8] == path.stem.partition('-')[2]
    assert set(load_weights_only(path)) == {'meta', 'state_dict'}
