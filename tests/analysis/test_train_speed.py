# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest

from kapao_mm.analysis import train_speed
from kapao_mm.analysis.train_speed import helping, measure_switches


def test_a_row_that_fails_is_reported_and_the_others_follow(monkeypatch, capsys):
    def run(function, options, iters):
        if not options:
            return dict(error='torch.OutOfMemoryError: CUDA out of memory')
        return dict(images_per_s=2.0, peak_bytes=10**9, loss=3.0)

    monkeypatch.setattr(train_speed.timing, 'run_alone', run)
    monkeypatch.setattr(train_speed, 'with_options', lambda cfg, options: options)
    rows = measure_switches(None, ['channels_last', 'bfloat16'], 1)
    assert list(rows) == ['baseline', 'channels_last', 'bfloat16', 'fastest', 'smallest']
    printed = capsys.readouterr().out
    assert 'baseline failed: torch.OutOfMemoryError: CUDA out of memory\n' in printed
    baseline, second, _, fastest, _ = (line.split() for line in printed.splitlines()[4:-1])
    assert baseline[1:4] == ['baseline', '|', 'failed']
    assert ' '.join(second) == '| channels_last | 2.00 | - | 1.000 | 3 | - |'
    assert ' '.join(fastest).startswith('| fastest: channels_last + bfloat16 |')


@pytest.mark.parametrize(
    ('key', 'sign', 'names'),
    [
        ('images_per_s', 1, ['channels_last', 'float16']),
        ('images_per_s', -1, ['checkpoint_activations']),
    ],
)
def test_the_switches_that_help_are_combined(key, sign, names):
    speed = dict(
        baseline=1,
        channels_last=3,
        bfloat16=2,  # float16 sets the same option and is better
        float16=2.5,
        checkpoint_activations=0.8,
        compile_network=1.01,  # within the margin
    )
    rows = {name: dict(images_per_s=value) for name, value in speed.items()}
    rows['fastest'] = dict(error='failed')
    assert helping(rows, key, sign) == names
    del rows['baseline']  # it failed
    assert 'compile_network' in helping(rows, key, sign)
