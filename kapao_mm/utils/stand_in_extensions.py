# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Replaces compiled extension modules that MMPose's dependencies import but KAPAO does not need.

- ``mmcv._ext`` holds MMCV's compiled operators. MMDetection and MMPose import ``mmcv.ops`` when
  they are loaded, also for models that use none of them. ``mmcv-lite`` has no ``mmcv._ext``; the
  stand-in lets the import pass and raises an error when an operator is called.
- ``xtcocotools._mask`` on the package index was compiled for numpy 1 and cannot be loaded with
  numpy 2. ``pycocotools._mask`` is the same code, compiled for numpy 2.

Modules that exist and can be loaded are never replaced.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

OPERATORS = 'mmcv._ext'
MASKS = 'xtcocotools._mask'


def install_stand_ins() -> None:
    """Makes Python import stand-ins if the real extension modules are missing or unusable.

    Only later imports are affected. Further calls do nothing.
    """
    if not any(isinstance(finder, _StandInFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _StandInFinder())


class _StandInFinder(MetaPathFinder):
    """Import finder for the two modules; Python's own finders handle all other modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of a stand-in, or None if the real module is to be used."""
        if name not in (OPERATORS, MASKS):
            return None
        real = PathFinder.find_spec(name, path, target)
        if name == OPERATORS:
            return None if real else ModuleSpec(name, _Loader(_make_operators))
        return ModuleSpec(name, _Loader(partial(_load_masks, real))) if real else None


class _Loader(Loader):
    """Loads a module that a function makes from its name."""

    def __init__(self, make: Callable[[str], ModuleType]) -> None:
        self.make = make

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Makes the module."""
        return self.make(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing; the module is complete."""


def _make_operators(name: str) -> ModuleType:
    """Makes a module that has every operator, each of which raises an error when called."""
    module = ModuleType(name)
    module.__getattr__ = _missing_operator  # PEP 562
    return module


def _load_masks(real: ModuleSpec, name: str) -> ModuleType:
    """Loads the real mask module if it fits the installed numpy, else that of pycocotools."""
    try:
        module = module_from_spec(real)
        real.loader.exec_module(module)
    except (ImportError, ValueError):  # raised for an extension compiled for numpy 1
        module = ModuleType(name)
        masks = vars(importlib.import_module('pycocotools._mask'))
        vars(module).update({key: masks[key] for key in masks if not key.startswith('__')})
    return module


def _missing_operator(name: str) -> Callable:
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f'MMCV was installed without compiled operators: {name} needs '
            '`pip uninstall mmcv-lite` and `pip install mmcv==2.1.0`'
        )

    return operator
