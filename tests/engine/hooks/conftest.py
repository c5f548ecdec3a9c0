# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Gives the tests what short_run.py has; other processes import it too."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.runner import Runner


@pytest.fixture(scope='session')
def short_run() -> ModuleType:
    """The file short_run.py."""
    path = Path(__file__).with_name('short_run.py')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_run(short_run) -> Callable[..., Runner]:
    """Makes a short run."""
    return short_run.make_run
