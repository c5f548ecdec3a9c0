# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
from multiprocessing import get_start_method
from operator import truediv

import numpy as np
import pytest
import torch

from kapao_mm.analysis.timing import (
    WARM_UP,
    describe_machine,
    memory,
    peak,
    run_alone,
    summarize,
    time_parts,
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
def test_peak_memory_is_that_of_the_measured_runs():
    sizes = [200] * WARM_UP + [50, 100]  # MiB
    before = memory('VmRSS')
    time_parts(lambda part: np.ones(sizes.pop(0) * MIB, np.uint8), 2, CPU)
    assert 90 * MIB < peak(CPU) - before < 150 * MIB


def test_a_summary_has_the_median_and_the_95th_percentile_in_ms():
    seconds = [0.001 * i for i in range(101)]
    assert summarize(seconds) == pytest.approx(dict(median_ms=50, p95_ms=95))


def test_the_machine_is_described_with_the_installed_modules():
    text = describe_machine('numpy', 'no_such_module')
    assert f'torch {torch.__version__}, numpy {np.__version__}, kapao_mm ' in text
    assert 'no_such_module' not in text


@pytest.mark.slow
def test_workers_of_the_process_for_a_row_start_as_in_this_process():
    assert run_alone(get_start_method) == get_start_method()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('call', 'error'),
    [
        ((truediv, 1, 0), 'ZeroDivisionError: division by zero'),
        ((os._exit, 9), 'its process was killed (out of memory?)'),
    ],
)
def test_the_error_of_a_row_is_one_line(call, error):
    assert run_alone(*call) == dict(error=error)
