# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest

from kapao_mm.analysis.sweep import draw, write_table
from kapao_mm.utils.config import typed_value


def test_the_table_has_every_metric(tmp_path):
    path = tmp_path / 'a.csv'
    # Without any pose there are fewer metrics.
    write_table(path, 'lr', {'0.1': dict(AP=0), '0.2': dict(AP=0.5, AR=0.6), '9': None})
    assert path.read_text().splitlines() == ['lr,AP,AR', '0.1,0,', '0.2,0.5,0.6', '9,,']


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('0.05', 0.05),
        ('[0.05,0.1]', [0.05, 0.1]),
        ('-1', -1),
        ('None', None),
        ('true', True),
        ('torch', 'torch'),
    ],
)
def test_values_are_read_like_those_of_cfg_options(text, value):
    assert typed_value(text) == value


def plot(results):
    rows = {text: None if ap is None else {'coco/AP': ap} for text, ap in results.items()}
    return draw('lr', 'coco/AP', rows, 'title').axes[0]


def test_the_plot_has_a_numeric_axis_for_numbers():
    axes = plot({'0.1': 0.5, '0.01': 0.3, '0.02': None})
    curve, best, failed = axes.lines
    assert curve.get_xydata().tolist() == [[0.01, 0.3], [0.1, 0.5]]
    assert best.get_xydata().tolist() == [[0.1, 0.5]]
    assert failed.get_xydata().tolist() == [[0.02, 0.3]]
    assert axes.get_xscale() == 'linear'
    assert plot({'0.1': 0.5, '0.001': 0.3}).get_xscale() == 'log'
    assert plot({'100': 0.5, '0': 0.3}).get_xscale() == 'linear'


@pytest.mark.parametrize('values', [['SGD', '[0.1,0.2]'], ['True', 'False']])
def test_the_plot_has_other_values_side_by_side(values):
    axes = plot(dict(zip(values, (0.2, 0.4), strict=True)))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [str(typed_value(value)) for value in values]
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.2], [1, 0.4]]
