# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest

TOOL = 'analysis_tools/postprocess_benchmark.py'
CONFIG = 'configs/kapao/kapao_n_coco.py'


def rows_of_two_poses_and_a_point():
    """Centre, size, objectness, 18 classes, 17 keypoints."""
    rows = np.zeros((3, 57), np.float32)
    rows[:, :4] = [(100, 100, 50, 90), (101, 100, 50, 90), (170, 100, 64, 64)]
    rows[:, 4] = 1
    rows[:2, 5] = 0.9, 0.8  # pose objects, duplicates
    rows[2, 6] = 0.7  # a keypoint object of the first type
    rows[:2, 23:] = 100
    return rows


@pytest.mark.slow
def test_a_table_and_a_plot_by_people_and_crowds_of_a_file(run_tool, tmp_path, capsys):
    golden, out = tmp_path / 'golden.npz', tmp_path / 'a/figures.json'
    np.savez(golden, tiny_pred=rows_of_two_poses_and_a_point(), other=np.zeros(1))
    options = ['--people', 1, 3, '--golden', golden, '--runs', 2, '--out', out]
    assert run_tool(TOOL, CONFIG, *options) is None
    printed = capsys.readouterr().out
    assert 'thresholds for evaluation' in printed
    report = json.loads(out.read_text())
    one, three, tiny = report['crowds'].values()
    assert list(report['crowds']) == ['1', '3', 'tiny']
    assert one['keypoint_objects'] < three['keypoint_objects'] <= 51
    counts = ('candidates', 'poses', 'keypoint_objects', 'fused')
    assert [tiny[name] for name in counts] == [3, 1, 1, 1]
    assert all(tiny[part]['median_ms'] > 0 for part in ('NMS', 'fusion', 'fuse', 'reference'))
    (line,) = (line for line in printed.splitlines() if line.startswith('    tiny '))
    assert line.split()[1:5] == ['3', '1', '1', '1']
    ratio = tiny['reference']['median_ms'] / tiny['fuse']['median_ms']
    assert float(line.split()[-1]) == pytest.approx(ratio, abs=0.05)
    assert out.with_suffix('.png').read_bytes()[1:4] == b'PNG'
    assert printed.endswith(f'figures: {out}\nplot: {out.with_suffix(".png")}\n')


def test_the_thresholds_are_those_of_the_use(run_tool, tmp_path):
    golden, out = tmp_path / 'golden.npz', tmp_path / 'figures.json'
    rows = rows_of_two_poses_and_a_point()
    rows[2, 6] = 0.4  # evaluation keeps it
    np.savez(golden, tiny_pred=rows)
    options = ['--people', 1, '--golden', golden, '--runs', 1, '--use', 'pictures', '--out', out]
    assert run_tool(TOOL, CONFIG, *options) is None
    report = json.loads(out.read_text())
    assert report['use'] == 'pictures'
    assert report['crowds']['tiny']['candidates'] == 2
    assert report['crowds']['tiny']['keypoint_objects'] == 0


def test_lines_of_the_plot_are_the_measured_times(load_file):
    tool = load_file(f'tools/{TOOL}')
    times = {
        part: dict(median_ms=ms, p95_ms=2 * ms)
        for part, ms in dict(NMS=2, fusion=1, fuse=0.5, reference=9).items()
    }
    (axes,) = tool.draw({1: times, 100: times}, 'a machine').axes
    assert axes.get_title() == 'a machine'
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        'NMS': [[1, 2], [100, 2]],
        'fusion': [[1, 1], [100, 1]],
        'fuse': [[1, 0.5], [100, 0.5]],
        'reference': [[1, 9], [100, 9]],
    }


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        (dict(pred=np.zeros((1, 57))), 'has no arrays NAME_pred of rows of 57 numbers'),
        (dict(a_pred=np.zeros((1, 48))), 'has no arrays NAME_pred of rows of 57 numbers'),
    ],
)
def test_a_file_of_something_else_is_refused(run_tool, tmp_path, arrays, message):
    path = tmp_path / 'golden.npz'
    np.savez(path, **arrays)
    assert message in run_tool(TOOL, CONFIG, '--golden', path)
    path.write_text('no array')
    assert f'{path} cannot be read' in run_tool(TOOL, CONFIG, '--golden', path)


def test_several_categories_are_refused(run_tool):
    message = run_tool(TOOL, 'configs/kapao/kapao_n_people_wheels.py')
    assert 'has 2 categories; give a config with one' in message
