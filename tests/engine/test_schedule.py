# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kapao_mm.engine.schedule import Recipe, ema_decay

PUBLISHED = dict(
    lr=0.01,
    momentum=0.937,
    weight_decay=5e-4,
    nominal_batch=64,
    warmup_epochs=3,
    warmup_iterations=1000,
    warmup_bias_lr=0.1,
    warmup_momentum=0.8,
    final_lr_ratio=0.2,
    max_epochs=500,
)


def recipe(epoch_length=925, total_batch=128, **changes):
    return Recipe(**PUBLISHED | changes, epoch_length=epoch_length, total_batch=total_batch)


@pytest.mark.parametrize(
    ('total_batch', 'accumulation', 'weight_decay'),
    [(128, 1, 1e-3), (72, 1, 5.625e-4), (48, 1, 3.75e-4), (16, 4, 5e-4), (24, 3, 5.625e-4)],
)
def test_weight_decay_is_scaled_to_the_images_of_a_step(total_batch, accumulation, weight_decay):
    run = recipe(total_batch=total_batch)
    assert run.accumulation == accumulation
    assert run.scaled_weight_decay == pytest.approx(weight_decay, rel=1e-12)


@pytest.mark.parametrize(('epoch_length', 'length'), [(925, 2775), (334, 1002), (100, 1000)])
def test_warmup_takes_three_epochs_and_at_least_1000_iterations(epoch_length, length):
    assert recipe(epoch_length).warmup_length == length


def test_lr_falls_to_a_fifth():
    assert recipe().cosine_lr(0) == 0.01
    assert recipe().cosine_lr(250) == pytest.approx(0.006)
    assert recipe().cosine_lr(500) == pytest.approx(0.002)


def test_warmup_is_linear():
    run = recipe(epoch_length=100, total_batch=16)  # 10 epochs of warm-up
    start, end = run.settings(0, 0), run.settings(1000, 10)
    assert start.lr == dict(weights=0, norms=0, biases=0.1)
    assert (start.momentum, start.accumulation) == (0.8, 1)
    assert end.lr == dict.fromkeys(('weights', 'norms', 'biases'), run.cosine_lr(10))
    assert (end.momentum, end.accumulation) == (0.937, 4)
    half = run.settings(500, 5)
    assert half.lr['norms'] == pytest.approx(run.cosine_lr(5) / 2)
    assert half.lr['biases'] == pytest.approx((0.1 + run.cosine_lr(5)) / 2)
    assert half.momentum == pytest.approx((0.8 + 0.937) / 2)


def test_first_iteration_without_warmup_has_the_final_settings():
    run = recipe(warmup_epochs=0, warmup_iterations=0, total_batch=32)
    settings = run.settings(0, 0)
    assert settings.lr == dict(weights=0.01, norms=0.01, biases=0.01)
    assert (settings.momentum, settings.accumulation) == (0.937, 2)


@given(st.integers(1, 300), st.integers(1, 3000), st.data())
def test_accumulation_rises_to_the_value_that_scales_the_weight_decay(total_batch, length, data):
    run = recipe(length, total_batch)
    first = data.draw(st.integers(0, run.warmup_length))
    second = data.draw(st.integers(first, 2 * run.warmup_length))
    before, after = (run.settings(i, i // length).accumulation for i in (first, second))
    assert 1 <= before <= after <= run.accumulation
    assert run.settings(run.warmup_length, 0).accumulation == run.accumulation


@given(st.integers(1, 10**6))
def test_ema_decay_rises(updates):
    decay = ema_decay(updates, decay=0.9999, ramp=2000)
    assert decay == pytest.approx(0.9999 * (1 - math.e ** (-updates / 2000)), rel=1e-9)
    assert 0 < decay <= ema_decay(updates + 1, decay=0.9999, ramp=2000) <= 0.9999
