# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import copy
import math

import pytest
import torch
from mmpose.registry import MODELS
from torch import nn

from kapao_mm.errors import InputError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def ema_of(model):
    return MODELS.build(dict(type='RampedEMA', model=model, decay=0.9, ramp=5))


def disturb(model):
    """Changes weights and buffers as training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model(torch.randn(2, 3, 4, 4))


def test_every_update_is_averaged(model):
    ema = ema_of(model)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for update in range(1, 20):
        disturb(model)
        ema.update_parameters(model)
        decay = 0.9 * (1 - math.exp(-update / 5))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.double()
            found = ema.module.state_dict()[name].double()
            torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-6)
    assert ema.module[1].num_batches_tracked == 19


def test_average_starts_from_a_model_that_was_initialized_later(model):
    ema = ema_of(model)
    disturb(model)
    ema.start_from(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(ema.module.state_dict()[name], tensor)
    assert ema.steps == 0


def test_resumed_average_is_exact(model):
    ema = ema_of(model)
    for _ in range(3):
        disturb(model)
        ema.update_parameters(model)
    resumed = ema_of(model)
    resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
    disturb(model)
    for each in (ema, resumed):
        each.update_parameters(model)
    assert resumed.steps == ema.steps == 4
    for name, tensor in ema.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ('decay', 'ramp'), [(0.9, 0), (0.9, -2000), (1.1, 5), (-0.1, 5), (math.nan, 5), (0.9, math.nan)]
)
def test_invalid_decay_or_ramp_is_refused(model, decay, ramp):
    with pytest.raises(InputError, match=f'RampedEMA has decay={decay} and ramp={ramp}; decay'):
        MODELS.build(dict(type='RampedEMA', model=model, decay=decay, ramp=ramp))
