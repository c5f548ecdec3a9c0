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
    """Sums gradients over three iterations, and keeps the state before one."""

    def __init__(self, before=None):
        self.before = before

    def before_train(self, runner):
        runner.optim_wrapper.accumulation = 3

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.before:
            runner.save_checkpoint(runner.work_dir, 'before.pth', by_epoch=False)


class Poison(Hook):
    """Makes a weight infinite, as a bad step would."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 6:
            runner.model.linear.weight.data[0] = torch.inf


def read(path):
    return load_weights_only(path)


def info(path):
    return read(path)['message_hub']['runtime_info']


def assert_same_training(path, expected):
    """Weights, BN statistics, EMA, momentum and pending gradients, bit for bit."""
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        (found, keys), (values, expected_keys) = (
            tree_flatten(read(file)[part]) for file in (path, expected)
        )
        assert keys == expected_keys
        for a, b in zip(found, values, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def spoilt(short_run):
    """Images whose third batch, of four, has a loss term that is not a number."""
    return short_run.images(spoilt=5)


def test_it_stops_before_the_batch_does_harm_and_says_why(make_run, spoilt, tmp_path):
    spoilt[5]['data_samples'].set_metainfo(dict(mosaic_paths=['5.jpg', '2.jpg']))
    run = make_run(tmp_path, hooks=[STOP, Probe(before=2)], data=spoilt)
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
    assert read(path)['optimizer']['pending']['iterations'] == 2


def test_a_stopped_run_resumed_to_skip_ends_as_one_that_skipped(make_run, spoilt, tmp_path):
    make_run(tmp_path / 'skipped', hooks=[SKIP, Probe()], data=spoilt).train()
    stopped = tmp_path / 'stopped'
    with pytest.raises(InputError):
        make_run(stopped, hooks=[STOP, Probe()], data=spoilt).train()
    resume = str(stopped / 'non_finite_iter_3.pth')
    make_run(stopped, hooks=[SKIP, Probe()], data=spoilt, resume=resume).train()
    ends = [work / 'epoch_4.pth' for work in (stopped, tmp_path / 'skipped')]
    assert_same_training(*ends)
    assert [read(end)['meta']['iter'] for end in ends] == [16, 16]
    assert [info(end)['skipped_batches'] for end in ends] == [4, 4]


def test_a_skipped_batch_is_as_though_it_had_never_been(make_run, spoilt, tmp_path):
    make_run(tmp_path / 'skipped', hooks=[SKIP, Probe()], data=spoilt).train()
    without = spoilt[:4] + spoilt[6:]
    make_run(tmp_path / 'without', hooks=[STOP, Probe()], data=without).train()
    ends = [tmp_path / name / 'epoch_4.pth' for name in ('skipped', 'without')]
    assert_same_training(*ends)
    for key in ('train/loss', 'train/loss_box', 'train/loss_obj'):
        a, b = (read(end)['message_hub']['log_scalars'][key].data[0] for end in ends)
        assert list(a) == list(b)


def test_skipped_batches_are_counted_and_named_in_the_log(make_run, spoilt, tmp_path):
    make_run(tmp_path, hooks=[SKIP], data=spoilt, max_epochs=2, log_level='INFO').train()
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    assert 'skipped: the loss is not finite at iteration 7 (epoch 2): loss_box nan, images' in text
    assert 'skipped batches so far: 2' in text
    make_run(tmp_path, hooks=[SKIP], data=spoilt, resume=True).train()
    assert info(tmp_path / 'epoch_4.pth')['skipped_batches'] == 4


@pytest.mark.parametrize('hook', [STOP, SKIP])
def test_weights_that_are_not_finite_stop_the_run(make_run, tmp_path, hook):
    with pytest.raises(InputError, match='loss_box inf, loss_obj inf, .*the weights themselves'):
        make_run(tmp_path, hooks=[hook, Poison()]).train()
    assert (tmp_path / 'non_finite_iter_7.pth').is_file()


def test_skipping_needs_a_wrapper_that_can(make_run, tmp_path):
    run = make_run(tmp_path, hooks=[SKIP], optim_wrapper='OptimWrapper')
    with pytest.raises(InputError, match="needs optim_wrapper.type='KAPAOOptimWrapper'"):
        FiniteLossHook('skip').before_train(run)


def test_an_unknown_choice_is_refused():
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
    assert messages[0].endswith('; saved: True')  # before any process could end the others
    skipped, without = (tmp_path / name / 'epoch_4.pth' for name in ('skip', 'without'))
    assert_same_training(skipped, without)
    assert info(skipped)['skipped_batches'] == 4
