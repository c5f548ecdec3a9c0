# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures from short_run.py, which is a file of its own because other processes import it."""

from collections.abc import Callable
from types import ModuleType

import pytest
from mmengine.runner import Runner


@pytest.fixture(scope='session')
def short_run(load_file) -> ModuleType:
    """The module short_run.py."""
    return load_file('tests/engine/hooks/short_run.py')


@pytest.fixture
def make_run(short_run) -> Callable[..., Runner]:
    """The function that builds a short run."""
    return short_run.make_run
