# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Fixtures that every test may use."""

from pathlib import Path

import pytest

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
def shared_dir() -> Path:
    """The folder of golden data and real images; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip('the folder `shared` (golden data, real images) is not beside the checkout')
    return SHARED
