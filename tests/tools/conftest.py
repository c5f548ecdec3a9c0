# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Runs tools in this process, which saves the seconds of importing MM each time."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from kapao_mm.datasets.toy import make_toy_dataset
from kapao_mm.utils.cli import exit_on_input_error


@pytest.fixture
def run_tool(repo, load_file, monkeypatch) -> Callable[..., str | int | None]:
    """Makes a function that runs a tool and returns its exit code or message, None for success."""

    def run(tool: str, *args: object) -> str | int | None:
        module = load_file(f'tools/{tool}')
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        monkeypatch.chdir(repo)
        try:
            with exit_on_input_error():
                module.main()
        except SystemExit as stop:
            return stop.code
        return None

    return run


@pytest.fixture
def run_jobs_here(run_tool, monkeypatch) -> Callable[..., None]:
    """Makes a function that keeps the jobs of a benchmark in this process, but for some.

    That saves importing everything again for each row.
    """

    def install(tool: str, apart: Callable[[dict], bool]) -> None:
        start = subprocess.run

        def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
            if apart(json.loads(command[-1])):
                return start(command, **options)
            with redirect_stdout(io.StringIO()) as printed:
                end = run_tool(tool, *command[2:])
            return subprocess.CompletedProcess(command, end is not None, printed.getvalue(), end)

        monkeypatch.setattr(subprocess, 'run', run)

    return install


@pytest.fixture(scope='session')
def toy(tmp_path_factory) -> Path:
    """A few small pictures of drawn people."""
    root = tmp_path_factory.mktemp('toy')
    return make_toy_dataset(root, num_train=4, num_val=2, image_size=(320, 240))


SECONDS = count(time.time())
CLOCK = ('localtime', 'strftime')  # what MMEngine's Runner uses besides


@pytest.fixture(autouse=True)
def _quick_runs(monkeypatch):
    """MMEngine logs configs laid out by yapf, which takes longer than the runs.

    And it names a run by its second, of which two would share one.
    """
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda code, **_: (code, True))
    clock = SimpleNamespace(time=lambda: next(SECONDS), **{n: getattr(time, n) for n in CLOCK})
    monkeypatch.setattr('mmengine.runner.runner.time', clock)
