# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy
import math

import pytest
import torch
from mmengine.hooks import Hook

from kapao_mm.engine.hooks import step_ema_hook
from kapao_mm.engine.weights_only import load_weights_only

WARMUP = 23  # iterations, with accumulations of 1 to 8


class Reference(Hook):
    """Averages copies of the model in float64, and compares at each iteration."""

    priority = 'LOWEST'

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.updates = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.average = copy.deepcopy(runner.model).double().state_dict()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.optim_wrapper.stepped:
            self.updates += 1
            decay = 0.9999 * (1 - math.exp(-self.updates / 2000))
            for name, tensor in copy.deepcopy(runner.model).state_dict().items():
                if tensor.is_floating_point():
                    self.average[name] = decay * self.average[name] + (1 - decay) * tensor
                else:
                    self.average[name] = tensor
        average = averaged_model(runner)
        assert average.steps == self.updates
        for name, tensor in average.module.state_dict().items():
            torch.testing.assert_close(
                tensor.double(), self.average[name].double(), rtol=1e-5, atol=1e-7
            )

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = runner.epoch + 1 == self.stop_after


def ema_hook(runner):
    (hook,) = (h for h in runner.hooks if isinstance(h, step_ema_hook.StepEMAHook))
    return hook


def averaged_model(runner):
    return ema_hook(runner).ema_model


def test_average_is_updated_at_each_step(tiny_runner, tmp_path):
    reference = Reference()
    runner = tiny_runner(tmp_path, 8, warmup_iterations=WARMUP, hooks=[reference])
    runner.train()
    assert 5 < reference.updates < 40 == runner.iter


def test_average_starts_from_a_loaded_model(tiny_runner, tmp_path):
    first = tiny_runner(tmp_path / 'a', 1)
    first.train()
    runner = tiny_runner(tmp_path / 'b', 2, warmup_iterations=WARMUP, hooks=[Reference()])
    runner._load_from = str(tmp_path / 'a/epoch_1.pth')
    runner.train()


@pytest.mark.parametrize('stop_after', [2, 3])
def test_resumed_run_ends_with_the_same_weights(tiny_runner, tmp_path, stop_after):
    whole = tiny_runner(tmp_path / 'whole', 6, warmup_iterations=WARMUP)
    whole.train()
    reference = Reference(stop_after)
    parts = tmp_path / 'parts'
    tiny_runner(parts, 6, warmup_iterations=WARMUP, hooks=[reference]).train()
    reference.stop_after = None
    resumed = tiny_runner(parts, 6, warmup_iterations=WARMUP, hooks=[reference], resume=True)
    resumed.train()
    models = (resumed.model, whole.model), (averaged_model(resumed), averaged_model(whole))
    for found, expected in models:
        for name, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor), name


def test_average_is_saved_as_the_model(tiny_runner, tmp_path):
    runner = tiny_runner(tmp_path, 2)
    runner.train()
    saved = load_weights_only(tmp_path / 'epoch_2.pth')
    for name, tensor in averaged_model(runner).module.state_dict().items():
        assert torch.equal(saved['state_dict'][name], tensor)
        if name.endswith('weight'):
            assert not torch.equal(runner.model.state_dict()[name], tensor)


def test_validation_uses_the_average_of_the_first_process(tiny_runner, tmp_path, monkeypatch):
    runner = tiny_runner(tmp_path, 2)
    runner.train()
    hook, trained = ema_hook(runner), copy.deepcopy(runner.model.state_dict())
    monkeypatch.setattr(step_ema_hook, 'broadcast', lambda tensor: tensor.fill_(7))
    hook.before_val_epoch(runner)
    assert all((tensor == 7).all() for tensor in runner.model.state_dict().values())
    hook.after_val_epoch(runner)
    for name, tensor in trained.items():
        assert torch.equal(runner.model.state_dict()[name], tensor)
