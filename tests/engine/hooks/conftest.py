# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Gives the tests what short_run.py has; other processes import it too."""

from collections.abc import Callable
from types import ModuleType

import pytest
from mmengine.runner import Runner


@pytest.fixture(scope='session')
def short_run(load_file) -> ModuleType:
    """The file short_run.py."""
    return load_file('tests/engine/hooks/short_run.py')


@pytest.fixture
def make_run(short_run) -> Callable[..., Runner]:
    """Makes a short run."""
    return short_run.make_run
