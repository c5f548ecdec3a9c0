# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils._pytree import tree_flatten

from kapao_mm.engine import FiniteLossHook
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError

STOP = dict(type='FiniteLossHook')
SKIP = dict(type='FiniteLossHook', on_non_finite='skip')


class Probe(Hook):
    """Sums gradients over three iterations, and saves the state before a given iteration."""

    def __init__(self, before=None):
        self.before = before

    def before_train(self, runner):
        runner.optim_wrapper.accumulation = 3

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.before:
            runner.save_checkpoint(runner.work_dir, 'before.pth', by_epoch=False)


class Poison(Hook):
    """Makes a weight infinite, as a bad optimizer step would."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 6:
            runner.model.linear.weight.data[0] = torch.inf


def info(path):
    return load_weights_only(path)['message_hub']['runtime_info']


def assert_same_training(path, expected):
    """Compares weights, statistics, EMA, momentum and pending gradients bit for bit."""
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        (found, keys), (values, expected_keys) = (
            tree_flatten(load_weights_only(file)[part]) for file in (path, expected)
        )
        assert keys == expected_keys
        for a, b in zip(found, values, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def spoiled(short_run):
    """Images of which the third of four batches has a NaN loss term."""
    return short_run.images(spoiled=5)


def test_run_stops_before_a_bad_batch_and_reports_it(make_run, spoiled, tmp_path):
    spoiled[5]['data_samples'].set_metainfo(dict(mosaic_paths=['5.jpg', '2.jpg']))
    run = make_run(tmp_path, hooks=[STOP, Probe(before=2)], data=spoiled)
    with pytest.raises(InputError) as caught:
        run.train()
    path = tmp_path / 'non_finite_iter_3.pth'
    assert str(caught.value) == (
        'the loss is not finite at iteration 3 (epoch 1): loss_box nan, '
        'images 4.jpg, 5.jpg, 2.jpg; '
        f'state before it: {path}; next: --resume {path} with a lower lr, or with '
        '--cfg-options default_hooks.finite_loss.on_non_finite=skip'
    )
    assert_same_training(path, tmp_path / 'before.pth')
    assert load_weights_only(path)['optimizer']['pending']['iterations'] == 2


def test_stopped_run_resumed_with_skip_equals_a_run_that_skipped(make_run, spoiled, tmp_path):
    make_run(tmp_path / 'skipped', hooks=[SKIP, Probe()], data=spoiled).train()
    stopped = tmp_path / 'stopped'
    with pytest.raises(InputError):
        make_run(stopped, hooks=[STOP, Probe()], data=spoiled).train()
    resume = str(stopped / 'non_finite_iter_3.pth')
    make_run(stopped, hooks=[SKIP, Probe()], data=spoiled, resume=resume).train()
    ends = [work / 'epoch_4.pth' for work in (stopped, tmp_path / 'skipped')]
    assert_same_training(*ends)
    assert [load_weights_only(end)['meta']['iter'] for end in ends] == [16, 16]
    assert [info(end)['skipped_batches'] for end in ends] == [4, 4]


def test_skipped_batch_leaves_no_trace(make_run, spoiled, tmp_path):
    make_run(tmp_path / 'skipped', hooks=[SKIP, Probe()], data=spoiled).train()
    without = spoiled[:4] + spoiled[6:]
    make_run(tmp_path / 'without', hooks=[STOP, Probe()], data=without).train()
    ends = [tmp_path / name / 'epoch_4.pth' for name in ('skipped', 'without')]
    assert_same_training(*ends)
    logs = [load_weights_only(end)['message_hub']['log_scalars'] for end in ends]
    for key in ('train/loss', 'train/loss_box', 'train/loss_obj'):
        assert list(logs[0][key].data[0]) == list(logs[1][key].data[0])


def test_skipped_batches_are_counted_and_logged(make_run, spoiled, tmp_path):
    make_run(tmp_path, hooks=[SKIP], data=spoiled, max_epochs=2, log_level='INFO').train()
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    assert 'skipped: the loss is not finite at iteration 7 (epoch 2): loss_box nan, images' in text
    assert 'skipped batches so far: 2' in text
    make_run(tmp_path, hooks=[SKIP], data=spoiled, resume=True).train()
    assert info(tmp_path / 'epoch_4.pth')['skipped_batches'] == 4


@pytest.mark.parametrize('hook', [STOP, SKIP])
def test_run_stops_if_weights_are_not_finite(make_run, tmp_path, hook):
    with pytest.raises(InputError, match='loss_box inf, loss_obj inf, .*the weights themselves'):
        make_run(tmp_path, hooks=[hook, Poison()]).train()
    assert (tmp_path / 'non_finite_iter_7.pth').is_file()


def test_skip_needs_a_suitable_optimizer_wrapper(make_run, tmp_path):
    run = make_run(tmp_path, hooks=[SKIP], optim_wrapper='OptimWrapper')
    with pytest.raises(InputError, match="needs optim_wrapper.type='KAPAOOptimWrapper'"):
        FiniteLossHook('skip').before_train(run)


def test_unknown_choice_is_refused():
    with pytest.raises(InputError, match="'ignore'; set 'stop' or 'skip'"):
        FiniteLossHook('ignore')


@pytest.mark.slow
def test_two_processes_skip_and_stop_together(repo, tmp_path):
    script = Path(__file__).with_name('two_processes.py')
    launch = [sys.executable, repo / 'tools/misc/launch.py', '2', script, tmp_path]
    subprocess.run(launch, cwd=repo, timeout=120, check=True)
    messages = [(tmp_path / f'message_{rank}').read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert 'iteration 2 (epoch 1): process 1: loss_box nan, images 5.jpg, 7.jpg; ' in messages[0]
    assert messages[0].endswith('; saved: True')  # saved before a process ends the others
    skipped, without = (tmp_path / name / 'epoch_4.pth' for name in ('skip', 'without'))
    assert_same_training(skipped, without)
    assert info(skipped)['skipped_batches'] == 4
