# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = [path.stem for path in sorted(HERE.glob('[!_rt]*.py'))]


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_every_attempt_ends_with_a_result_or_an_input_error(kind, load_file, monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(HERE), *sys.path])
    outcomes, faults = load_file('tests/attack/run.py').run(kind, count=20, seed=0)
    assert not faults
    assert outcomes.total() >= 20
