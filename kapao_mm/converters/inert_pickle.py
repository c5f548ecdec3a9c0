# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads checkpoints that contain pickled objects without importing or running their classes.

``torch.load(weights_only=True)`` accepts only tensors, storages and plain containers, and refuses
any other class or function that a file refers to. Here each of these is replaced by an inert class
without behavior. A file is refused only if it calls an inert class.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import serialization

from kapao_mm.engine.weight_file import check_integrity, reason
from kapao_mm.engine.weights_only import TORCH_CAN, load_restricted, unknown_globals
from kapao_mm.errors import InputError

# Constructors of numpy arrays and numbers, which may be called; they give empty objects.
NUMPY_CALLS = frozenset(
    {
        'numpy.dtype',
        'numpy.core.multiarray._reconstruct',
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray._reconstruct',
        'numpy._core.multiarray.scalar',
    }
)


class InertClass(type):
    """Metaclass of the classes that replace those in a file; refuses calls to them."""

    def __call__(cls, *args: Any) -> 'InertObject':
        """Raises UnpicklingError, except for numpy's constructors, which give an empty object."""
        if cls.__name__ not in NUMPY_CALLS:
            raise pickle.UnpicklingError(f'it would call {cls.__name__}')
        return cls.__new__(cls)


class InertObject(metaclass=InertClass):
    """Replacement for a pickled object, whose class is not imported.

    Attributes:
        state: Pickled state of the object, usually a dict of its attributes; None if the file has
            none.
    """

    state: Any = None

    def __new__(cls, *args: Any) -> 'InertObject':
        """Creates an object and ignores all arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state  # not set as attributes, because a file could use any names


def load_inert(path: str | Path) -> Any:
    """Reads an untrusted file of ``torch.save`` (torch 1.6 and later) without running its code.

    Args:
        path: File to read.

    Returns:
        The content of the file on the CPU. Objects other than tensors and plain containers are
        replaced by :class:`InertObject`.

    Raises:
        InputError: If the file is missing, damaged or of another kind, or if it calls a function
            or class; the message names what it calls.
    """
    if not Path(path).is_file():
        raise InputError(f'{path} does not exist (looked at {Path(path).absolute()})')
    check_integrity(Path(path))
    try:
        if not TORCH_CAN:
            return load_restricted(path, _make_inert_class)
        with _nothing_allowed():
            names = unknown_globals(path)
            serialization.add_safe_globals([(_make_inert_class(name), name) for name in names])
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a hostile file can make the reader raise anything
        raise InputError(f'{path} cannot be read safely: {reason(error)}') from error


@contextmanager
def _nothing_allowed() -> Iterator[None]:
    """Clears torch's list of allowed classes for ``weights_only`` within the context."""
    allowed = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed)


def _make_inert_class(name: str) -> InertClass:
    return InertClass(name, (InertObject,), {})
