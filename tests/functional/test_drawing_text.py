# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from kapao_mm.functional import drawing_text
from kapao_mm.functional.drawing_text import BRIGHT, DARK, Labels, draw_legend, tag

RED, BLUE = (255, 0, 0), (0, 0, 200)
NOWHERE = np.zeros((0, 2))


def test_a_label_is_above_its_box():
    canvas = np.zeros((100, 100, 3), np.uint8)
    Labels(canvas, NOWHERE).write(['A'], 12, RED, np.array([20.0, 50, 80, 90]))
    y, x = np.nonzero(canvas[..., 0])
    assert y.max() == 49 and x.min() == 20


def test_labels_cover_no_other_label():
    canvas = np.zeros((100, 100, 3), np.uint8)
    labels, box = Labels(canvas, NOWHERE), np.array([20.0, 50, 80, 90])
    labels.write(['A'], 12, RED, box)
    red = canvas.any(-1)
    before = canvas[red]
    assert labels.write(['B'], 12, BLUE, box) == 'B'
    np.testing.assert_array_equal(canvas[red], before)


def test_labels_avoid_keypoints():
    canvas = np.zeros((100, 100, 3), np.uint8)
    labels = Labels(canvas, np.array([[25.0, 45]]))  # where the label would be otherwise
    labels.write(['A'], 12, RED, np.array([20.0, 50, 80, 90]))
    assert canvas.any() and not canvas[45, 25].any()


def test_without_room_a_shorter_or_no_text_is_written():
    canvas = np.zeros((14, 40, 3), np.uint8)
    labels, box = Labels(canvas, NOWHERE), np.array([0.0, 0, 30, 14])
    assert labels.write(['much too long', '#1'], 10, RED, box) == '#1'
    before = canvas.copy()
    assert labels.write(['also too long'], 10, RED, box) == ''
    np.testing.assert_array_equal(canvas, before)


@pytest.mark.parametrize('point', [(-1e6, 5.0), (1e6, 1e6), (5.0, -1e6)])
def test_labels_of_boxes_outside_are_moved_into_the_picture(point):
    canvas = np.zeros((60, 60, 3), np.uint8)
    assert Labels(canvas, np.array([point])).write(['A'], 10, RED, np.array(2 * point)) == 'A'
    assert canvas.any()


@pytest.mark.parametrize(('ground', 'letters'), [((255, 255, 0), DARK), ((0, 0, 200), BRIGHT)])
def test_letters_contrast_with_the_ground(ground, letters):
    picture = tag('MMM', 40, ground).reshape(-1, 3)
    assert (picture == letters).all(1).any() and (picture == ground).all(1).any()


def test_letters_outside_ascii_are_drawn_with_a_font_of_the_system(monkeypatch):
    file = str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf'))
    monkeypatch.setattr(drawing_text, 'SYSTEM_FONTS', ('missing.ttf', file))
    drawing_text._font.cache_clear()
    assert (tag('é', 40, RED) != tag('è', 40, RED)).any()


def test_the_legend_is_in_the_lower_left_corner_and_fits():
    canvas = np.full((300, 300, 3), 200, np.uint8)
    draw_legend(canvas, [(RED, True, 'left'), (RED, False, 'right')])
    y, x = np.nonzero((canvas != 200).any(-1))
    assert (x.min(), y.max()) == (0, 299)
    assert x.max() < 150 < y.min()
    tiny = np.full((12, 9, 3), 200, np.uint8)
    draw_legend(tiny, [(RED, True, 'a long explanation')])
    assert (tiny == 200).mean() > 0.3
