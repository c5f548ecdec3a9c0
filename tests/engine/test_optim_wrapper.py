# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy
import io

import pytest
import torch
from mmpose.registry import OPTIM_WRAPPERS
from torch import nn

from kapao_mm.engine.optim_wrapper import make_loss_scaler
from kapao_mm.engine.weights_only import load_weights_only
from kapao_mm.errors import InputError

SGD = dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)

needs_cpu_loss_scaler = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='before torch 2.3 losses are scaled on GPUs only'
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def wrap(model, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    return OPTIM_WRAPPERS.build(dict(type='KAPAOOptimWrapper', optimizer=optimizer, **kwargs))


def loss_of(model, seed):
    batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    return model(batch.to(model[0].weight)).square().sum(dtype=torch.float64)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_step_is_that_of_sgd_with_the_summed_gradients(model):
    plain = copy.deepcopy(model.double())
    wrapper, sgd = wrap(model), torch.optim.SGD(plain.parameters(), **SGD)
    wrapper.accumulation = 3
    for step in range(2):  # the second has momentum
        for seed in range(3 * step, 3 * step + 3):
            wrapper.update_params(loss_of(model, seed))
        sgd.zero_grad()
        sum(loss_of(plain, seed) for seed in range(3 * step, 3 * step + 3)).backward()
        sgd.step()
        torch.testing.assert_close(weights(model), weights(plain), rtol=1e-12, atol=0)


def test_step_is_made_when_enough_iterations_have_passed(model):
    wrapper = wrap(model)
    stepped = []
    for seed, accumulation in enumerate([1, 2, 2, 3, 3, 1, 1, 4]):
        wrapper.accumulation = accumulation
        before = weights(model)
        wrapper.update_params(loss_of(model, seed))
        stepped.append(wrapper.stepped)
        assert same(before, weights(model)) is not wrapper.stepped
    assert stepped == [True, False, True, False, False, True, True, False]


def test_skipped_batch_changes_nothing(model):
    wrapper = wrap(model)
    wrapper.update_params(loss_of(model, 0))
    wrapper.accumulation = 2
    wrapper.update_params(loss_of(model, 1))
    before = weights(model), [p.grad.clone() for p in model.parameters()]
    for accumulation in (2, 1):
        wrapper.accumulation = accumulation
        wrapper.update_params(torch.tensor(0.0))
        assert not wrapper.stepped
        assert same(before[0], weights(model))
        assert same(before[1], [p.grad for p in model.parameters()])
    wrapper.accumulation = 3  # one of them is pending
    stepped = []
    for seed in (2, 3):
        wrapper.update_params(loss_of(model, seed))
        stepped.append(wrapper.stepped)
    assert stepped == [False, True]


def test_resuming_during_an_accumulation_is_exact(model):
    wrapper = wrap(model)
    for seed, accumulation in enumerate([1, 3, 3]):
        wrapper.accumulation = accumulation
        wrapper.update_params(loss_of(model, seed))
    file = io.BytesIO()
    torch.save(dict(model=model.state_dict(), optimizer=wrapper.state_dict()), file)
    file.seek(0)
    saved = load_weights_only(file)

    resumed_model = copy.deepcopy(model)
    resumed = wrap(resumed_model)
    resumed_model.load_state_dict(saved['model'])
    resumed.load_state_dict(saved['optimizer'])
    assert same(*([p.grad for p in m.parameters()] for m in (model, resumed_model)))
    for seed in range(3, 7):
        for each_model, each in ((model, wrapper), (resumed_model, resumed)):
            each.accumulation = 3
            each.update_params(loss_of(each_model, seed))
        assert wrapper.stepped == resumed.stepped == (seed in (3, 6))
        assert same(weights(model), weights(resumed_model))


def test_loading_a_state_replaces_pending_gradients(model):
    wrapper = wrap(model)
    state = wrapper.state_dict()
    wrapper.accumulation = 2
    wrapper.update_params(loss_of(model, 0))
    wrapper.load_state_dict(state)
    assert all(p.grad is None for p in model.parameters())
    wrapper.update_params(loss_of(model, 1))
    assert not wrapper.stepped


@pytest.fixture
def scaled(model):
    """A wrapper with the loss scaler of float16, without the GPU that float16 needs."""
    wrapper = wrap(model)
    wrapper.loss_scaler = make_loss_scaler('cpu')
    return wrapper


@needs_cpu_loss_scaler
def test_overflowed_step_is_skipped(model, scaled):
    before, stepped = weights(model), []
    for factor in (1e35, 1, 1):
        scaled.update_params(loss_of(model, 0).float() * factor)
        stepped.append(scaled.stepped)
        assert same(before, weights(model)) is not any(stepped)
    assert stepped == [False, True, True]


@needs_cpu_loss_scaler
def test_resuming_restores_the_loss_scale(model, scaled):
    scaled.update_params(loss_of(model, 0).float() * 1e35)
    resumed = wrap(model)
    resumed.loss_scaler = make_loss_scaler('cpu')
    resumed.load_state_dict(scaled.state_dict())
    assert resumed.loss_scaler.get_scale() == scaled.loss_scaler.get_scale() == 32768


@needs_cpu_loss_scaler
def test_pending_gradients_are_restored_in_another_precision(model, scaled):
    unscaled_model = copy.deepcopy(model)
    unscaled = wrap(unscaled_model)
    pairs = (model, scaled), (unscaled_model, unscaled)
    for each_model, wrapper in pairs:
        wrapper.accumulation = 2
        wrapper.update_params(loss_of(each_model, 0))
    gradients = [[p.grad.clone() for p in each_model.parameters()] for each_model, _ in pairs]
    assert not same(*gradients)
    scaled_state = copy.deepcopy(scaled.state_dict())
    scaled.load_state_dict(unscaled.state_dict())
    unscaled.load_state_dict(scaled_state)
    for (each_model, _), expected in zip(pairs, gradients, strict=True):
        assert same(expected, [p.grad for p in each_model.parameters()])


def test_state_of_a_plain_optimizer_is_loaded(model):
    wrapper = wrap(model)
    wrapper.update_params(loss_of(model, 0))
    momenta = [state['momentum_buffer'] for state in wrapper.optimizer.state.values()]
    resumed = wrap(model)
    resumed.load_state_dict(wrapper.optimizer.state_dict())
    assert same(momenta, [s['momentum_buffer'] for s in resumed.optimizer.state.values()])


def test_precision_is_float32_without_a_gpu(model):
    wrapper = wrap(model)
    with wrapper.optim_context(model):
        assert model(torch.ones(1, 6)).dtype == torch.float32


def test_bfloat16_trains_like_float32(model):
    losses = {}
    for precision in ('float32', 'bfloat16'):
        trained = copy.deepcopy(model)
        wrapper = wrap(trained, precision=precision)
        wrapper.optimizer.param_groups[0]['lr'] = 0.01
        losses[precision] = []
        for _ in range(5):
            with wrapper.optim_context(trained):
                assert trained(torch.ones(1, 6)).dtype == getattr(torch, precision)
                loss = loss_of(trained, 0)
            wrapper.update_params(loss)
            losses[precision].append(loss.item())
        assert not same(weights(model), weights(trained))
        assert all(p.dtype == torch.float32 for p in trained.parameters())
    assert losses['bfloat16'][-1] < losses['bfloat16'][0]
    assert losses['bfloat16'] == pytest.approx(losses['float32'], rel=0.05)
    assert losses['bfloat16'] != losses['float32']


@pytest.mark.parametrize(
    ('precision', 'message'),
    [('half', "precision is 'half'; set auto, float32 or"), ('float16', 'needs a GPU')],
)
def test_unavailable_precision_is_refused(model, precision, message):
    with pytest.raises(InputError, match=message):
        wrap(model, precision=precision)


def test_summed_gradient_is_clipped(model):
    wrapper = wrap(model, clip_grad=dict(max_norm=1e-3))
    wrapper.optimizer.param_groups[0].update(momentum=0, nesterov=False, weight_decay=0, lr=1)
    wrapper.accumulation = 2
    before = weights(model)
    for seed in range(2):
        wrapper.update_params(loss_of(model, seed))
    change = torch.cat([(a - b).flatten() for a, b in zip(before, weights(model), strict=True)])
    assert change.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_lr_of_each_group_is_logged(model):
    groups = [
        dict(params=[p], name=name, lr=lr)
        for p, name, lr in zip(model.parameters(), 'abcd', (1, 2, 3, 4), strict=True)
    ]
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='KAPAOOptimWrapper', optimizer=torch.optim.SGD(groups, lr=9))
    )
    assert wrapper.get_lr() == dict(lr=[1], b_lr=[2], c_lr=[3], d_lr=[4])
