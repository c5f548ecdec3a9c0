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
            return None if real else ModuleSpec(name, _OperatorLoader())
        return ModuleSpec(name, _MaskLoader(real)) if real else None


class _OperatorLoader(Loader):
    """Loads a module that has every operator, each of which raises an error when called."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Creates the module."""
        module = ModuleType(spec.name)
        module.__getattr__ = _missing_operator  # PEP 562
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing; the module is complete."""


class _MaskLoader(Loader):
    """Loads the real mask module if it fits the installed numpy, else that of pycocotools."""

    def __init__(self, real: ModuleSpec) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Creates and fills the module."""
        try:
            module = module_from_spec(self.real)
            self.real.loader.exec_module(module)
        except (ImportError, ValueError):  # raised for an extension compiled for numpy 1
            module = ModuleType(spec.name)
            module.__dict__.update(_public(importlib.import_module('pycocotools._mask')))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing; the module is complete."""


def _missing_operator(name: str) -> Callable:
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f'MMCV was installed without compiled operators: {name} needs '
            '`pip uninstall mmcv-lite` and `pip install mmcv==2.1.0`'
        )

    return operator


def _public(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith('__')}
