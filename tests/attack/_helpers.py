# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Helpers of several kinds of attack."""

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

REPO = Path(__file__).resolve().parents[2]


@cache
def load(path: str) -> ModuleType:
    """Loads a file outside the package as a module, by its path in the repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPO / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each dict and list inside a value with each of its keys or indices."""
    keys = {dict: list, list: lambda value: range(len(value))}.get(type(value), lambda _: ())
    for key in keys(value):
        yield value, key
        yield from entries(value[key])
