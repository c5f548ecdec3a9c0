# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads files of ``torch.save`` without running code in them.

torch 2.6 and later accepts a list of allowed classes for ``weights_only`` reading. For older
versions this module has a restricted unpickler with the same behavior.
"""

import pickle
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

FindClass = Callable[[str], Any]  # returns the object for a name such as 'numpy.ndarray'

TORCH_CAN = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
DTYPES = ('float16', 'bfloat16', 'float32', 'float64', 'uint8', 'int8', 'int16', 'int32', 'int64')


def _encode(text: str, encoding: str) -> bytes:
    """Replaces ``_codecs.encode``, with which pickles of protocol 2 store bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it encodes to {encoding}, which is not allowed')
    return text.encode('latin1')


def _empty_bytes() -> bytes:
    """Replaces ``bytes``, which pickles of protocol 2 call for an empty array.

    With an argument, the class itself could allocate any amount of memory.
    """
    return b''


def _history_method(owner: type, name: str) -> Callable:
    """Replaces ``getattr`` in checkpoints; returns only the statistics methods of a history."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)


def _mmengine_globals() -> dict[str, Any]:
    """Returns the classes and functions in MMEngine's checkpoints by their names in files.

    These are numpy arrays of the dataset's metainfo, and the history of logged values, which refers
    to its own methods by ``getattr``.
    """
    kinds = (np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64)
    found = [
        *(HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in kinds)),
        *(np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]),
    ]
    names = {f'{value.__module__}.{value.__qualname__}': value for value in found}
    return names | {'builtins.getattr': _history_method, 'builtins.bytes': _empty_bytes}


ALLOWED = _mmengine_globals()
# Functions and classes that create tensors and containers, as in torch's own reader.
TENSORS: dict[str, Any] = {
    '_codecs.encode': _encode,
    'collections.OrderedDict': OrderedDict,
    'builtins.bytearray': bytearray,
    'builtins.complex': complex,
    'builtins.set': set,
    'collections.Counter': Counter,
    'torch.Size': torch.Size,
    'torch.bool': torch.bool,
    'torch.device': torch.device,
    'torch.nn.parameter.Parameter': torch.nn.Parameter,
    **{
        f'torch._utils.{name}': getattr(torch._utils, name)
        for name in ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter')
    },
    **{f'torch.{name}': getattr(torch, name) for name in DTYPES},
}
# Opcodes that torch never writes and that create objects in ways that are not checked here.
REFUSED = ('INST', 'OBJ', 'EXT1', 'EXT2', 'EXT4', 'NEWOBJ_EX', 'PERSID', 'STACK_GLOBAL')


def load_weights_only(path: str | Path, map_location: Any = 'cpu', mmap: bool = False) -> Any:
    """Reads a file with tensors, plain containers and the objects of MMEngine's checkpoints.

    Args:
        path: File of ``torch.save``.
        map_location: As in ``torch.load``.
        mmap: As in ``torch.load``.

    Raises:
        pickle.UnpicklingError: If the file names another class or function. For a damaged file
            torch raises other errors.
    """
    if TORCH_CAN:
        with torch.serialization.safe_globals([(value, name) for name, value in ALLOWED.items()]):
            return torch.load(path, map_location, weights_only=True, mmap=mmap)
    return load_restricted(path, _find_allowed, map_location, mmap)


def load_restricted(
    path: str | Path, find_class: FindClass, map_location: Any = 'cpu', mmap: bool = False
) -> Any:
    """Reads a file with the restricted unpickler, which works with any version of torch.

    Args:
        path: File of ``torch.save``, in the format of torch 1.6 and later.
        find_class: Function that returns the object for a name not in :data:`TENSORS`, or raises
            ``pickle.UnpicklingError``.
        map_location: As in ``torch.load``.
        mmap: As in ``torch.load``.

    Raises:
        pickle.UnpicklingError: If the file is in another format, or uses opcodes that are not
            allowed.
    """
    if not zipfile.is_zipfile(path):
        raise pickle.UnpicklingError('it is not a file of torch.save (torch 1.6 or later)')
    with zipfile.ZipFile(path) as archive:
        entries = {Path(entry.filename).name: entry.file_size for entry in archive.infolist()}
    if 'constants.pkl' in entries:
        raise pickle.UnpicklingError('it is a TorchScript file')
    if hasattr(path, 'seek'):
        path.seek(0)

    class Unpickler(_RestrictedUnpickler):
        sizes = entries

        def find_class(self, module: str, name: str) -> Any:
            full_name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
            found = TENSORS[full_name] if full_name in TENSORS else find_class(full_name)
            if isinstance(found, type):
                self.classes += (found,)
            return found

    module = SimpleNamespace(Unpickler=Unpickler, __name__='restricted pickle')
    options = dict(pickle_module=module, weights_only=False, mmap=mmap)
    return torch.load(str(path) if mmap else path, map_location, **options)


def unknown_globals(path: str | Path) -> set[str]:
    """Returns the names of classes and functions in a file that are not allowed."""
    if TORCH_CAN:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    with zipfile.ZipFile(path) as archive:
        (program,) = (name for name in archive.namelist() if Path(name).name == 'data.pkl')
        opcodes = pickletools.genops(archive.read(program))
        names = {arg.replace(' ', '.') for op, arg, _ in opcodes if op.name == 'GLOBAL'}
    return {name for name in names if name not in TENSORS and name not in ALLOWED}


def _find_allowed(name: str) -> Any:
    if name not in ALLOWED:
        raise pickle.UnpicklingError(f'{name} is not allowed')
    return ALLOWED[name]


def _refuse(opcode: str, unpickler: pickle._Unpickler) -> None:
    raise pickle.UnpicklingError(f'it uses pickle opcode {opcode}, which is not allowed')


class _RestrictedUnpickler(pickle._Unpickler):
    """Python's unpickler without rare opcodes; it cannot modify classes, functions or modules."""

    dispatch = dict(pickle._Unpickler.dispatch)
    classes: tuple[type, ...] = (torch.Tensor,)  # classes whose objects may get a state
    sizes: dict[str, int] = {}  # size of each storage in the file, bytes

    def load_build(self) -> None:
        """Sets the state of an object, if it is a tensor or of a class that the file names."""
        target = self.stack[-2]
        if isinstance(target, type) or not isinstance(target, self.classes):
            raise pickle.UnpicklingError(
                f'Can only build objects of the classes that it names, not {target!r}'
            )
        super().load_build()

    def load_binpersid(self) -> None:
        """Loads a storage after a check of its size.

        torch before 2.6 would read beyond the end of a storage that is too short.
        """
        _, kind, key, _, count = self.stack[-1]
        size = torch._utils._element_size(kind.dtype)
        if not 0 <= count * size <= self.sizes.get(key, -1):
            raise pickle.UnpicklingError(f'its storage {key} is shorter than stated')
        super().load_binpersid()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BINPERSID[0]] = load_binpersid
    for _name in REFUSED:
        dispatch[getattr(pickle, _name)[0]] = partial(_refuse, _name)
