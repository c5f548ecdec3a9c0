# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loading checkpoints safely: nothing in them is executed."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from kapao_mm.errors import InputError


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read what MMEngine writes, and nothing else.

    MMEngine keeps arrays of the dataset's metainfo and the history of logged values in its
    checkpoints; the history refers to its own methods by ``getattr``.
    """
    reconstruct, _, _ = np.empty(0).__reduce__()
    scalar, _ = np.float64().__reduce__()
    kinds = (np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64)
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *(type(np.dtype(kind)) for kind in kinds),
            reconstruct,
            scalar,
            (_history_method, 'builtins.getattr'),
        ]
    )


def _history_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr`` in checkpoints: gives the statistics of a history, no more."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(owner, name)


def require_checkpoint(path: str | Path) -> None:
    """Makes sure that a checkpoint exists.

    Raises:
        InputError: it does not.
    """
    if not Path(path).is_file():
        raise InputError(f'checkpoint {path} does not exist (looked at {Path(path).absolute()})')


def check_checkpoint(path: str | Path, model: nn.Module) -> None:
    """Makes sure that a checkpoint can be read and fills every weight of the model.

    MMEngine only warns about weights that are missing or of another shape and goes on with random
    ones.

    Args:
        path: a checkpoint of MMEngine.
        model: the model that it is meant for.

    Raises:
        InputError: the file is missing, is no checkpoint of MMEngine, or belongs to another model.
    """
    require_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if 'WeightsUnpickler error' in line), lines[0])
        raise InputError(f'checkpoint {path} cannot be read safely: {reason.strip()}') from error
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise InputError(f'checkpoint {path} has no state_dict; give one that tools/train.py wrote')
    found = checkpoint['state_dict']
    wrong = [
        name
        for name, value in model.state_dict().items()
        if name not in found or found[name].shape != value.shape
    ]
    if wrong:
        raise InputError(
            f'checkpoint {path} does not fit the config: {len(wrong)} weights are missing or have '
            f'another shape, the first is {wrong[0]}; use the config that it was trained with'
        )
