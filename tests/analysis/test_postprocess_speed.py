# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from kapao_mm.analysis.postprocess_speed import draw


def test_lines_of_the_plot_are_the_measured_times():
    times = {
        part: dict(median_ms=ms, p95_ms=2 * ms)
        for part, ms in dict(NMS=2, fusion=1, fuse=0.5).items()
    }
    (axes,) = draw({1: times, 100: times}, 'a machine').axes
    assert axes.get_title() == 'a machine'
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        'NMS': [[1, 2], [100, 2]],
        'fusion': [[1, 1], [100, 1]],
        'fuse': [[1, 0.5], [100, 0.5]],
    }
