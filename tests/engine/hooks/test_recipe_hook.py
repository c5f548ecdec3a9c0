# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math

import pytest
from mmengine.hooks import Hook

from kapao_mm.errors import InputError

EPOCHS, EPOCH_LENGTH, BATCH = 8, 5, 8


class Recorder(Hook):
    """Records the settings of the optimizer at each iteration."""

    priority = 'LOWEST'

    def __init__(self, stop_after=None):
        self.records = []
        self.stop_after = stop_after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        wrapper = runner.optim_wrapper
        self.records.append(
            dict(
                {
                    f'{key}/{group["name"]}': group[key]
                    for group in wrapper.optimizer.param_groups
                    for key in ('lr', 'momentum', 'weight_decay')
                },
                nesterov=all(group['nesterov'] for group in wrapper.optimizer.param_groups),
                accumulation=wrapper.accumulation,
                stepped=wrapper.stepped,
                logged_lr=runner.message_hub.get_scalar('train/lr').current(),
                logged_bias_lr=runner.message_hub.get_scalar('train/biases_lr').current(),
            )
        )

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = runner.epoch + 1 == self.stop_after


def expected_records(warmup):
    """Returns the recipe of docs/method.md, written out for batches of 8 images."""
    records, pending = [], 0
    for iteration in range(EPOCHS * EPOCH_LENGTH):
        epoch = iteration // EPOCH_LENGTH
        lr = 0.01 * ((1 - math.cos(math.pi * epoch / EPOCHS)) / 2 * (0.2 - 1) + 1)
        bias_lr, momentum, accumulation = lr, 0.937, 8  # 64 / 8
        if iteration <= warmup:
            progress = iteration / warmup
            bias_lr = 0.1 + (lr - 0.1) * progress
            lr = lr * progress
            momentum = 0.8 + (0.937 - 0.8) * progress
            accumulation = max(1, round(1 + (64 / BATCH - 1) * progress))
        pending += 1
        stepped = pending >= accumulation
        pending = 0 if stepped else pending
        records.append(
            {
                'lr/weights': lr,
                'lr/norms': lr,
                'lr/biases': bias_lr,
                'momentum/weights': momentum,
                'momentum/norms': momentum,
                'momentum/biases': momentum,
                'weight_decay/weights': 5e-4 * BATCH * 8 / 64,
                'weight_decay/norms': 0.0,
                'weight_decay/biases': 0.0,
                'nesterov': True,
                'accumulation': accumulation,
                'stepped': stepped,
                'logged_lr': lr,
                'logged_bias_lr': bias_lr,
            }
        )
    return records


def check(found, expected):
    assert len(found) == len(expected)
    for iteration, (record, wanted) in enumerate(zip(found, expected, strict=True)):
        assert record == pytest.approx(wanted, rel=1e-12, abs=1e-15), f'iteration {iteration}'


@pytest.mark.parametrize(('minimum', 'warmup'), [(10, 15), (23, 23)])
def test_every_iteration_follows_the_recipe(tiny_runner, tmp_path, minimum, warmup):
    recorder = Recorder()
    tiny_runner(tmp_path, EPOCHS, warmup_iterations=minimum, hooks=[recorder]).train()
    check(recorder.records, expected_records(warmup))


def test_resumed_run_follows_the_recipe(tiny_runner, tmp_path):
    first, second = Recorder(stop_after=3), Recorder()
    expected = expected_records(23)
    assert not expected[14]['stepped']  # it is stopped during an accumulation
    tiny_runner(tmp_path, EPOCHS, warmup_iterations=23, hooks=[first]).train()
    tiny_runner(tmp_path, EPOCHS, warmup_iterations=23, hooks=[second], resume=True).train()
    check(first.records + second.records, expected)


def test_images_of_all_processes_are_counted(tiny_runner, tmp_path):
    recorder = Recorder()
    runner = tiny_runner(tmp_path, 4, hooks=[recorder])
    runner._world_size = 4
    runner.train()
    last = recorder.records[-1]
    assert last['accumulation'] == 2  # 64 / (4 processes x 8 images)
    assert last['weight_decay/weights'] == 5e-4


@pytest.mark.parametrize(
    'change',
    [
        dict(constructor='DefaultOptimWrapperConstructor'),
        dict(type='OptimWrapper'),
        dict(optimizer=dict(type='AdamW', lr=0.01)),
    ],
)
def test_unsuitable_optimizer_is_refused(tiny_runner, recipe_cfg, tmp_path, change):
    recipe_cfg.optim_wrapper = dict(recipe_cfg.optim_wrapper, **change)
    if change.get('type'):
        del recipe_cfg.optim_wrapper['precision']
    with pytest.raises(InputError, match='constructor=KAPAOOptimWrapperConstructor'):
        tiny_runner(tmp_path, 1).train()
