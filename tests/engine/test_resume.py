# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
import shutil

import pytest

from kapao_mm.engine import checkpoint_to_resume, latest_checkpoint, require_no_checkpoints
from kapao_mm.errors import InputError


@pytest.fixture
def save_run(save, model):
    """Makes a function that saves a checkpoint that can be resumed, at a given time."""

    def save_run(name, seconds):
        path = save(model, name, message_hub={}, optimizer={})
        os.utime(path, (seconds, seconds))
        return path

    return save_run


@pytest.fixture
def work_dir(tmp_path, save_run):
    """The work directory of a run with three checkpoints."""
    paths = [save_run(f'epoch_{n}.pth', seconds=n) for n in (1, 2, 3)]
    (tmp_path / 'last_checkpoint').write_text(str(paths[-1]))
    return tmp_path


def test_latest_or_given_checkpoint_is_resumed(work_dir, tmp_path_factory):
    assert checkpoint_to_resume(work_dir) == str(work_dir / 'epoch_3.pth')
    given = str(work_dir / 'epoch_1.pth')
    assert checkpoint_to_resume(work_dir, given) == given
    assert checkpoint_to_resume(tmp_path_factory.mktemp('new')) is None


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'missing', 'without optimizer'])
@pytest.mark.parametrize('given', ['auto', '{}/epoch_3.pth'])
def test_damaged_checkpoint_is_reported_with_the_newest_good_one(
    work_dir, save, model, damage, given
):
    path = work_dir / 'epoch_3.pth'
    if damage == 'missing':
        path.unlink()
    elif damage == 'without optimizer':  # as the best checkpoint
        save(model, path.name, message_hub={})
    else:
        path.write_bytes(path.read_bytes()[: -500 if damage == 'truncated' else 0])
    with pytest.raises(InputError, match=f'{path} .*; use --resume {work_dir}/epoch_2.pth$'):
        checkpoint_to_resume(work_dir, given.format(work_dir))


def test_empty_last_checkpoint_is_reported(work_dir):
    (work_dir / 'last_checkpoint').write_text('')
    with pytest.raises(InputError, match=f'{work_dir}/last_checkpoint is empty; use .*epoch_3.pth'):
        checkpoint_to_resume(work_dir)


def test_folder_without_a_good_checkpoint_is_reported(tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'')
    with pytest.raises(InputError, match=f'a.pth cannot be read.*; {tmp_path} has no checkpoint'):
        checkpoint_to_resume(tmp_path, str(tmp_path / 'a.pth'))


def test_newest_checkpoint_is_resumed_if_last_checkpoint_is_missing(
    work_dir, save, save_run, model, log
):
    (work_dir / 'last_checkpoint').unlink()
    save_run('epoch_10.pth', seconds=0)  # the numbers count: a copy has the time of copying
    save(model, 'best_coco_AP_epoch_12.pth', message_hub={})
    save_run('non_finite_iter_900.pth', seconds=9)
    assert checkpoint_to_resume(work_dir) == str(work_dir / 'epoch_10.pth')
    assert f'{work_dir} has no last_checkpoint; resuming the newest, ' in log.text
    (work_dir / 'epoch_10.pth').write_bytes(b'')
    assert checkpoint_to_resume(work_dir) == str(work_dir / 'epoch_3.pth')


def test_folder_with_checkpoints_that_cannot_be_resumed_is_reported(tmp_path, save, model):
    save(model, 'start.pth')
    assert checkpoint_to_resume(tmp_path) is None  # a run may start from it
    save(model, 'best_coco_AP_epoch_3.pth', message_hub={})
    with pytest.raises(InputError, match='best_coco_AP_epoch_3.pth cannot be resumed'):
        checkpoint_to_resume(tmp_path)


@pytest.mark.parametrize('written', ['{}/epoch_3.pth', 'work_dirs/a/epoch_3.pth', 'epoch_3.pth'])
def test_moved_run_is_resumed_from_its_new_folder(work_dir, tmp_path_factory, written):
    (work_dir / 'last_checkpoint').write_text(written.format(work_dir))
    moved = tmp_path_factory.mktemp('x') / 'moved'
    shutil.copytree(work_dir, moved)  # the original is still there
    assert latest_checkpoint(moved) == moved / 'epoch_3.pth'
    assert checkpoint_to_resume(moved) == str(moved / 'epoch_3.pth')


def test_advice_for_a_moved_run_is_in_its_new_folder(work_dir, tmp_path_factory):
    moved = tmp_path_factory.mktemp('x') / 'moved'
    work_dir.rename(moved)
    (moved / 'epoch_3.pth').unlink()
    with pytest.raises(InputError, match=f'does not exist.*; use --resume {moved}/epoch_2.pth'):
        checkpoint_to_resume(moved)


def test_checkpoint_in_another_folder_is_resumed(work_dir, tmp_path_factory):
    pointing = tmp_path_factory.mktemp('x')
    shutil.copy(work_dir / 'last_checkpoint', pointing)
    assert checkpoint_to_resume(pointing) == str(work_dir / 'epoch_3.pth')


@pytest.mark.parametrize('written', ['\0', '/', '..', 'a' * 5000, '\xff' * 9, 'a\nb'])
def test_damaged_last_checkpoint_is_reported(work_dir, written):
    (work_dir / 'last_checkpoint').write_text(written, encoding='latin-1')
    with pytest.raises(InputError, match='does not exist.*; use --resume .*/epoch_3.pth'):
        checkpoint_to_resume(work_dir)


def test_folder_with_checkpoints_of_a_run_is_refused(tmp_path):
    require_no_checkpoints(tmp_path / 'missing')
    for name in ('start.pth', 'my_epoch_3.pth', 'epoch_3.pth.txt', 'last_checkpoint'):
        (tmp_path / name).touch()
    require_no_checkpoints(tmp_path)
    for name in ('epoch_3.pth', 'iter_500.pth', 'best_coco_AP_epoch_3.pth'):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=r'has checkpoints of another run \(\d, such as '):
            require_no_checkpoints(tmp_path)


def test_run_is_resumed_from_a_url(served, save, save_run, model):
    folder, server = served
    save_run('epoch_3.pth', seconds=3).rename(folder / 'epoch_3.pth')
    found = checkpoint_to_resume(folder / 'new', server.url('epoch_3.pth'))
    assert os.path.basename(found) == 'epoch_3.pth'
    save(model, 'b.pth').rename(folder / 'b.pth')
    with pytest.raises(InputError, match='b.pth cannot be resumed: message_hub, optimizer missing'):
        checkpoint_to_resume(folder / 'new', server.url('b.pth'))
