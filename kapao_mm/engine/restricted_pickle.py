# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads files of ``torch.save`` safely with torch older than 2.6.

There ``weights_only`` cannot be told which further classes are harmless. Newer versions of torch
can, and are used where they are installed.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch

FindClass = Callable[[str], Any]  # the object that stands for a name such as 'numpy.ndarray'

# Opcodes that torch never writes, and that make objects in ways that are not checked here.
REFUSED = (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEWOBJ_EX)

DTYPES = ('float16', 'bfloat16', 'float32', 'float64', 'uint8', 'int8', 'int16', 'int32', 'int64')

# What tensors and containers are made with; the same as in torch's own reader.
TENSORS: dict[str, Any] = {
    'collections.OrderedDict': OrderedDict,
    'torch.Size': torch.Size,
    'torch.device': torch.device,
    'torch.nn.parameter.Parameter': torch.nn.Parameter,
    **{
        f'torch._utils.{name}': getattr(torch._utils, name)
        for name in ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter')
    },
    **{f'torch.{name}': getattr(torch, name) for name in DTYPES},
}


def supports_safe_globals() -> bool:
    """Returns whether torch itself can be told which further classes are harmless."""
    return hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')


def load_restricted(path: str | Path, find_class: FindClass) -> Any:
    """Reads a file of ``torch.save`` onto the CPU and runs nothing that it names.

    Args:
        path: File in the format of torch 1.6 and later.
        find_class: Returns the object for a global name that is not needed for tensors, or raises
            ``pickle.UnpicklingError``.

    Raises:
        pickle.UnpicklingError: If the file names something that is not allowed, or is in another
            format.
    """
    if not zipfile.is_zipfile(path):
        raise pickle.UnpicklingError('it is not in the format of torch 1.6 and later')
    with zipfile.ZipFile(path) as archive:
        if any(Path(name).name == 'constants.pkl' for name in archive.namelist()):
            raise pickle.UnpicklingError('it is a TorchScript file')

    class Unpickler(_RestrictedUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            full_name = f'{module}.{name}'
            return TENSORS[full_name] if full_name in TENSORS else find_class(full_name)

    module = SimpleNamespace(Unpickler=Unpickler, __name__='restricted pickle')
    return torch.load(path, map_location='cpu', pickle_module=module, weights_only=False)


class _RestrictedUnpickler(pickle._Unpickler):
    """Python's unpickler without rare opcodes; it changes no class, function or module."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Sets the state of an object; refuses to set attributes of code."""
        target = self.stack[-2]
        if isinstance(target, (type, FunctionType, BuiltinFunctionType, ModuleType)):
            raise pickle.UnpicklingError(f'it would change {target!r}')
        super().load_build()

    def load_refused(self) -> None:
        """Refuses an opcode."""
        raise pickle.UnpicklingError('it uses a pickle opcode that is not allowed')

    dispatch[pickle.BUILD[0]] = load_build
    for _opcode in REFUSED:
        dispatch[_opcode[0]] = load_refused
