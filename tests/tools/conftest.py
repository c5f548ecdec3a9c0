# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Runs tools in this process, which saves the seconds of importing MM each time."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import count, groupby
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
def measure_here(monkeypatch) -> Callable[..., None]:
    """Makes a function that keeps the measurements of a benchmark in this process, except some.

    That saves importing everything again for each row.
    """

    def install(apart: Callable[..., bool] = lambda *args: False) -> None:
        class Here(Executor):
            def __init__(self, *settings: object) -> None:
                self.settings = settings

            def submit(self, function: Callable, *args: object) -> Future:
                if apart(function, *args):
                    with ProcessPoolExecutor(*self.settings) as pool:
                        return pool.submit(function, *args)
                done = Future()
                try:
                    done.set_result(function(*args))
                except Exception as error:
                    done.set_exception(error)
                return done

        monkeypatch.setattr('kapao_mm.analysis.timing.ProcessPoolExecutor', Here)

    return install


@pytest.fixture(scope='session')
def read_tables() -> Callable[[str], list[list[dict[str, str]]]]:
    """Makes a function that finds the Markdown tables in a text: cells by title, row by row."""

    def read(text: str) -> list[list[dict[str, str]]]:
        tables = []
        for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith('|')):
            if is_table:
                cells = ([cell.strip() for cell in line[1:-1].split('|')] for line in lines)
                titles, _, *rows = cells
                tables.append([dict(zip(titles, row, strict=True)) for row in rows])
        return tables

    return read


@pytest.fixture(scope='session')
def toy(tmp_path_factory) -> Path:
    """A toy dataset of a few small images."""
    root = tmp_path_factory.mktemp('toy')
    return make_toy_dataset(root, num_train=4, num_val=2, image_size=(320, 240))


SECONDS = count(time.time())
CLOCK = ('localtime', 'strftime')  # other functions that MMEngine's Runner calls


@pytest.fixture(autouse=True)
def _quick_runs(monkeypatch):
    """Skips formatting of logged configs, which takes longer than the runs.

    MMEngine names a run by the current second; a fake clock keeps the names unique.
    """
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda code, **_: (code, True))
    clock = SimpleNamespace(time=lambda: next(SECONDS), **{n: getattr(time, n) for n in CLOCK})
    monkeypatch.setattr('mmengine.runner.runner.time', clock)
