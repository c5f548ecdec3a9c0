# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from kapao_mm.analysis.timing import (
    WARM_UP,
    describe_machine,
    memory,
    peak,
    run_alone,
    summarise,
    time_parts,
    write_report,
)

CPU = torch.device('cpu')
MIB = 2**20


def test_parts_are_timed_in_each_run_after_the_warm_up(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr('time.perf_counter', lambda: clock[0])
    runs = []

    def run(part):
        runs.append(part)
        for name, seconds in dict(forward=len(runs), NMS=0.5).items():
            with part(name):
                clock[0] += seconds
            clock[0] += 100  # between the parts

    seconds = time_parts(run, 3, CPU)
    assert len(runs) == WARM_UP + 3
    first = WARM_UP + 1
    assert seconds == {'forward': [first, first + 1, first + 2], 'NMS': [0.5] * 3}


@pytest.mark.slow
def test_the_peak_of_memory_is_that_of_the_measured_runs():
    sizes = [200] * WARM_UP + [50, 100]  # MiB
    before = memory('VmRSS')
    time_parts(lambda part: np.ones(sizes.pop(0) * MIB, np.uint8), 2, CPU)
    assert 90 * MIB < peak(CPU) - before < 150 * MIB


def test_a_summary_has_the_median_and_the_95th_percentile_in_ms():
    seconds = [0.001 * i for i in range(101)]
    assert summarise(seconds) == pytest.approx(dict(median_ms=50, p95_ms=95))


def test_the_machine_is_described_with_the_modules_that_are_there():
    text = describe_machine('numpy', 'no_such_module')
    assert f'torch {torch.__version__}, numpy {np.__version__}, kapao_mm ' in text
    assert 'no_such_module' not in text


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['tool', '--runs', '3'])

    def run(code):
        script = tmp_path / 'tool.py'
        script.write_text(f'import json, os, sys\njob = json.loads(sys.argv[-1])\n{code}')
        return run_alone(str(script), dict(row=7))

    return run


def test_a_row_is_measured_by_the_tool_itself_in_another_process(run_script):
    code = "print('log'); print(json.dumps(dict(job, argv=sys.argv[1:-1], pid=os.getpid())))"
    row = run_script(code)
    assert row['row'] == 7 and row['argv'] == ['--runs', '3', '--job']
    assert row['pid'] != run_script(code)['pid']


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        ("sys.exit('error: no backend')", 'no backend'),
        ("print('...', file=sys.stderr); 1 / 0", 'ZeroDivisionError: division by zero'),
        ('os.kill(os.getpid(), 9)', 'ended with code -9'),
    ],
)
def test_the_error_of_a_row_is_its_last_line(run_script, code, error):
    assert run_script(code) == dict(error=error)


def test_a_report_is_written_as_json_into_a_new_folder(tmp_path, capsys):
    path = tmp_path / 'a/b.json'
    write_report(dict(rows=[1.5]), path)
    assert path.read_text() == '{\n  "rows": [\n    1.5\n  ]\n}\n'
    assert capsys.readouterr().out == f'\nfigures: {path}\n'
