# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import importlib
import json
import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.engine.weights_only import load_weights_only

TIMES = ('train/time', 'train/data_time', 'val/time', 'val/data_time')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    return make_toy_dataset(root, num_train=8, num_val=2, image_size=(160, 120))


@pytest.fixture
def start(repo, data, tmp_path, monkeypatch):
    """Makes a function that starts a training of four epochs in another process."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.syspath_prepend(repo)
    monkeypatch.setenv('PYTHONPATH', f'{repo}:{Path(__file__).parent}')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['probed_train'])  # so that the runs share the imports
    run = importlib.import_module('probed_train').run

    def start(work_dir, *args, kill_at='', seed=None):
        options = [
            f'data_root={data}',
            'train_ann=annotations/person_keypoints_train.json',
            'val_ann=annotations/person_keypoints_val.json',
            'input_size=64',
            'max_epochs=4',
            'train_dataloader.batch_size=2',
            'train_dataloader.num_workers=2',
            'val_dataloader.num_workers=0',
            # Epochs of 4 iterations end within accumulations of 3, after a ramp of 6 iterations.
            'custom_hooks.0.nominal_batch=6',
            'custom_hooks.0.warmup_epochs=1',
            'custom_hooks.0.warmup_iterations=6',
            'default_hooks.checkpoint.max_keep_ckpts=2',
            'default_hooks.probe.type=Probe',
            f'default_hooks.probe.kill_at={kill_at}',
            f'randomness.seed={seed}',
        ]
        config = str(repo / 'configs/kapao/kapao_n_coco.py')
        command = [config, '--work-dir', str(work_dir), *args, '--cfg-options', *options]
        process = context.Process(
            target=run, args=(repo / 'tools/train.py', command, work_dir.with_suffix('.log'))
        )
        process.start()
        return process

    return start


def exit_code(process):
    """Waits for a run to end, and returns its exit code."""
    process.join(300)
    return process.exitcode


def checkpoints(work_dir):
    return {path.name for path in work_dir.iterdir() if path.suffix in ('.pth', '.partial')}


def records(work_dir):
    return [json.loads(line) for line in (work_dir / 'iterations.jsonl').read_text().splitlines()]


def assert_same(found, expected, key=''):
    """Compares nested values of checkpoints bit for bit."""
    assert type(found) is type(expected), key
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, key
        assert torch.equal(found, expected), key
    elif isinstance(expected, HistoryBuffer):
        assert_same([*map(list, found.data)], [*map(list, expected.data)], key)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), key
        for name, value in expected.items():
            assert_same(found[name], value, f'{key}/{name}')
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), key
        for index, value in enumerate(expected):
            assert_same(found[index], value, f'{key}/{index}')
    else:
        assert found == expected, key


def load(path):
    """Reads a checkpoint without what differs between equal runs: names, paths and times."""
    checkpoint = load_weights_only(path)
    # MMEngine adds the commit of the working folder to its version.
    for key in ('time', 'experiment_name', 'cfg', 'dataset_meta', 'mmengine_version'):
        del checkpoint['meta'][key]
    hub = checkpoint['message_hub']
    for key in ('cfg', 'experiment_name', 'dataset_meta'):
        del hub['runtime_info'][key]
    for key in ('best_ckpt', 'last_ckpt'):
        hub['runtime_info'][key] = Path(hub['runtime_info'][key]).name
    for key in TIMES:
        del hub['log_scalars'][key]
    return checkpoint


@pytest.mark.slow
def test_run_that_is_killed_three_times_equals_an_uninterrupted_one(start, tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    reference = start(whole, seed=5)
    # In epoch 3, within an accumulation that began in epoch 2.
    assert exit_code(start(killed, kill_at='iteration-9', seed=5)) == -signal.SIGKILL
    assert exit_code(reference) == 0
    before = records(killed)
    assert len(before) == 9
    assert {'epoch_1.pth', 'epoch_2.pth'} < checkpoints(killed)

    assert exit_code(start(killed, '--resume', kill_at='save-3')) == -signal.SIGKILL
    assert list(killed.glob('.*.partial/epoch_3.pth'))
    assert (killed / 'last_checkpoint').read_text() == str(killed / 'epoch_2.pth')

    assert exit_code(start(killed, '--resume', kill_at='validation-3')) == -signal.SIGKILL
    assert exit_code(start(killed, '--resume')) == 0
    assert 'The validation of epoch 3 is missing' in killed.with_suffix('.log').read_text()

    assert checkpoints(killed) == checkpoints(whole)
    assert checkpoints(whole) == {'epoch_3.pth', 'epoch_4.pth', 'best_coco_AP_epoch_3.pth'}
    assert_same(load(killed / 'epoch_4.pth'), load(whole / 'epoch_4.pth'))
    best = (load_weights_only(run / 'best_coco_AP_epoch_3.pth') for run in (killed, whole))
    assert_same(*(checkpoint['state_dict'] for checkpoint in best))
    expected = records(whole)
    assert before == expected[:9]
    assert records(killed)[9:] == expected[8:12] + expected[8:12] + expected[12:]
    assert len({record['data'] for record in expected}) == 16  # no augmentation is repeated
    assert not expected[7]['stepped']  # gradients were pending at the first kill
