# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
import shutil

import pytest
import torch
from torch import nn

from kapao_mm.engine import checkpoint_to_resume, latest_checkpoint, require_no_checkpoints
from kapao_mm.errors import InputError


@pytest.fixture
def model():
    return nn.Linear(3, 2)


def save(path, model, **entries):
    torch.save(dict(state_dict=model.state_dict()) | entries, path)
    return path


def save_run(path, model, seconds):
    """A checkpoint with the state of a run, written at a time."""
    save(path, model, meta={}, message_hub={}, optimizer={})
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def work_dir(tmp_path, model):
    """Of a run whose third checkpoint is the latest."""
    paths = [save_run(tmp_path / f'epoch_{n}.pth', model, seconds=n) for n in (1, 2, 3)]
    (tmp_path / 'last_checkpoint').write_text(str(paths[-1]))
    return tmp_path


def test_the_latest_checkpoint_is_resumed_or_the_given_one(work_dir, tmp_path_factory):
    assert checkpoint_to_resume(work_dir) == str(work_dir / 'epoch_3.pth')
    assert checkpoint_to_resume(work_dir, str(work_dir / 'epoch_1.pth')) == str(
        work_dir / 'epoch_1.pth'
    )
    assert checkpoint_to_resume(tmp_path_factory.mktemp('new')) is None


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'missing', 'without optimizer'])
@pytest.mark.parametrize('given', ['auto', '{}/epoch_3.pth'])
def test_a_damaged_checkpoint_is_named_with_the_newest_good_one(work_dir, model, damage, given):
    path = work_dir / 'epoch_3.pth'
    if damage == 'missing':
        path.unlink()
    elif damage == 'without optimizer':  # as the best checkpoint
        save(path, model, meta={}, message_hub={})
    else:
        path.write_bytes(path.read_bytes()[: -500 if damage == 'truncated' else 0])
    with pytest.raises(InputError, match=f'{path} .*; use --resume {work_dir}/epoch_2.pth$'):
        checkpoint_to_resume(work_dir, given.format(work_dir))


def test_an_empty_last_checkpoint_is_named(work_dir):
    (work_dir / 'last_checkpoint').write_text('')
    with pytest.raises(InputError, match=f'{work_dir}/last_checkpoint is empty; use .*epoch_3.pth'):
        checkpoint_to_resume(work_dir)


def test_a_folder_without_another_good_checkpoint_is_named(tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'')
    with pytest.raises(InputError, match=f'a.pth cannot be read.*; no other in {tmp_path} can'):
        checkpoint_to_resume(tmp_path, str(tmp_path / 'a.pth'))


def test_the_newest_is_resumed_where_last_checkpoint_is_missing(work_dir, model, log):
    (work_dir / 'last_checkpoint').unlink()
    save_run(work_dir / 'epoch_10.pth', model, seconds=0)  # a copy has the times of copying
    save(work_dir / 'best_coco_AP_epoch_12.pth', model, meta={}, message_hub={})
    save_run(work_dir / 'non_finite_iter_900.pth', model, seconds=9)
    assert checkpoint_to_resume(work_dir) == str(work_dir / 'epoch_10.pth')
    assert f'{work_dir} has no last_checkpoint; resuming its newest, ' in log.text
    (work_dir / 'epoch_10.pth').write_bytes(b'')
    assert checkpoint_to_resume(work_dir) == str(work_dir / 'epoch_3.pth')


def test_a_folder_without_last_checkpoint_or_anything_to_resume_is_named(tmp_path, model):
    save(tmp_path / 'start.pth', model)
    assert checkpoint_to_resume(tmp_path) is None  # a run may start from it
    save(tmp_path / 'best_coco_AP_epoch_3.pth', model, meta={}, message_hub={})
    with pytest.raises(InputError, match='best_coco_AP_epoch_3.pth lacks what resuming needs'):
        checkpoint_to_resume(tmp_path)


@pytest.mark.parametrize('written', ['{}/epoch_3.pth', 'work_dirs/a/epoch_3.pth', 'epoch_3.pth'])
def test_a_moved_run_is_resumed_from_its_own_folder(work_dir, tmp_path_factory, written):
    (work_dir / 'last_checkpoint').write_text(written.format(work_dir))
    moved = tmp_path_factory.mktemp('x') / 'moved'
    shutil.copytree(work_dir, moved)  # the original is still there
    assert latest_checkpoint(moved) == moved / 'epoch_3.pth'
    assert checkpoint_to_resume(moved) == str(moved / 'epoch_3.pth')


def test_a_moved_run_without_its_latest_names_one_of_its_own(work_dir, tmp_path_factory):
    moved = tmp_path_factory.mktemp('x') / 'moved'
    work_dir.rename(moved)
    (moved / 'epoch_3.pth').unlink()
    with pytest.raises(InputError, match=f'does not exist.*; use --resume {moved}/epoch_2.pth'):
        checkpoint_to_resume(moved)


def test_checkpoints_kept_elsewhere_are_resumed(work_dir, tmp_path_factory):
    pointing = tmp_path_factory.mktemp('x')
    shutil.copy(work_dir / 'last_checkpoint', pointing)
    assert checkpoint_to_resume(pointing) == str(work_dir / 'epoch_3.pth')


@pytest.mark.parametrize('written', ['\0', '/', '..', 'a' * 5000, '\xff' * 9, 'a\nb'])
def test_a_damaged_last_checkpoint_is_an_error(work_dir, written):
    (work_dir / 'last_checkpoint').write_text(written, encoding='latin-1')
    with pytest.raises(InputError, match='does not exist.*; use --resume .*/epoch_3.pth'):
        checkpoint_to_resume(work_dir)


def test_only_checkpoints_of_runs_keep_a_folder_from_being_used(tmp_path):
    require_no_checkpoints(tmp_path / 'missing')
    for name in ('start.pth', 'my_epoch_3.pth', 'epoch_3.pth.txt', 'last_checkpoint'):
        (tmp_path / name).touch()
    require_no_checkpoints(tmp_path)
    for name in ('epoch_3.pth', 'iter_500.pth', 'best_coco_AP_epoch_3.pth'):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=r'holds checkpoints of another run \(\d, as '):
            require_no_checkpoints(tmp_path)


def test_a_run_on_a_server_is_resumed(served, model):
    folder, server = served
    save_run(folder / 'epoch_3.pth', model, seconds=3)
    found = checkpoint_to_resume(folder / 'new', server.url('epoch_3.pth'))
    assert os.path.basename(found) == 'epoch_3.pth'
    save(folder / 'b.pth', model)
    with pytest.raises(InputError, match='b.pth cannot be resumed, it has no meta'):
        checkpoint_to_resume(folder / 'new', server.url('b.pth'))
