# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checkpoints that hold whole objects, read without the code of their classes.

``torch.load(weights_only=True)`` runs nothing, imports nothing and lets through tensors, storages
and plain containers only. It refuses all other classes and functions that a file names. Here each
of those gets a stand-in without behaviour, so that only a file that calls one is refused.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import serialization

from kapao_mm.errors import InputError

from .weight_file import check_integrity, reason
from .weights_only import TORCH_CAN, load_restricted, unknown_globals

# What numpy's arrays and numbers are made with; their stand-ins may be called, and stay empty.
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
    """The type of the stand-ins for classes and functions; it refuses to call them."""

    def __call__(cls, *args: Any) -> 'InertObject':
        """Refuses; but for numpy's, which give another stand-in."""
        if cls.__name__ not in NUMPY_CALLS:
            raise pickle.UnpicklingError(f'it would call {cls.__name__}')
        return cls.__new__(cls)


class InertObject(metaclass=InertClass):
    """Stands in for an object of a foreign class.

    Attributes:
        state: what the file says of the object, mostly a dict of its attributes; None where it says
            nothing.
    """

    state: Any = None

    def __new__(cls, *args: Any) -> 'InertObject':
        """Takes any arguments and keeps none."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state  # and no attributes: a file could name them as it likes


def load_inert(path: str | Path) -> Any:
    """Reads a file of ``torch.save`` (torch 1.6 and later) from anywhere; nothing in it is run.

    Args:
        path: the file.

    Returns:
        Its content on the CPU, with an :class:`InertObject` for each object of a class that is
        neither a tensor nor a plain container.

    Raises:
        InputError: the file is missing, damaged or of another kind, or it calls a function or a
            class; with the name of that.
    """
    if not Path(path).is_file():
        raise InputError(f'{path} does not exist (looked at {Path(path).absolute()})')
    check_integrity(Path(path))
    try:
        if not TORCH_CAN:
            return load_restricted(path, _stand_in)
        with _nothing_allowed():
            names = unknown_globals(path)
            serialization.add_safe_globals([(_stand_in(name), name) for name in names])
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a hostile file can make the reader raise anything
        raise InputError(f'{path} cannot be read safely: {reason(error)}') from error


@contextmanager
def _nothing_allowed() -> Iterator[None]:
    """Takes back, for a while, what this process lets ``weights_only`` read beyond tensors."""
    allowed = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed)


def _stand_in(name: str) -> InertClass:
    return InertClass(name, (InertObject,), {})
