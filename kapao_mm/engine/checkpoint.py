# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loading checkpoints safely: nothing in them is executed."""

import pickle
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from kapao_mm.errors import InputError


def allow_mmengine_checkpoints() -> None:
    """Lets ``torch.load(weights_only=True)`` read what MMEngine writes, and nothing else.

    MMEngine keeps the history of logged values in its checkpoints: a class of its own around float
    and integer arrays.
    """
    reconstruct, _, _ = np.empty(0).__reduce__()
    scalar, _ = np.float64().__reduce__()
    dtypes = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, reconstruct, scalar, *dtypes]
    )


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
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path} does not exist (looked at {path.absolute()})')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f'checkpoint {path} cannot be read safely: {str(error).splitlines()[0]}'
        ) from error
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
