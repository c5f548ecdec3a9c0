# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures that every test may use."""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.logging import MMLogger

from kapao_mm import register_all_modules

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / 'shared'  # golden data and real images, kept outside the project


@pytest.fixture(scope='session', autouse=True)
def _registered() -> None:
    register_all_modules()


@pytest.fixture(scope='session')
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope='session')
def load_file(repo) -> Callable[[str], ModuleType]:
    """Makes a function that runs a file outside the package, by its path in the repository."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, repo / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope='session')
def shared_dir() -> Path:
    """The folder of golden data and real images; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip('the folder `shared` (golden data, real images) is not beside the checkout')
    return SHARED


@pytest.fixture
def log(caplog) -> Iterator[pytest.LogCaptureFixture]:
    """What MMEngine's current logger was told."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
