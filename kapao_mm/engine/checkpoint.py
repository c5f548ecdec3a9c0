# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loading checkpoints safely: nothing in them is executed."""

import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import nn

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_folder


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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of MMEngine, its tensors only when they are used.

    Raises:
        InputError: the file is missing or is no checkpoint of MMEngine.
    """
    require_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if 'WeightsUnpickler error' in line), lines[0])
        reason = reason.strip().partition('. ')[0]
        raise InputError(f'checkpoint {path} cannot be read safely: {reason}') from error
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise InputError(f'checkpoint {path} has no state_dict; give one that tools/train.py wrote')
    return checkpoint


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
    wrong = _unfilled(model, path)
    if wrong:
        raise InputError(
            f'checkpoint {path} does not fit the config: {len(wrong)} weights are missing or have '
            f'another shape, the first is {wrong[0]}; use the config that it was trained with'
        )


def check_training_start(path: str | Path, model: nn.Module) -> None:
    """Makes sure that a checkpoint fills a model's backbone and neck, and logs what it does not.

    The head may be missing, or be one for other keypoints: it keeps its initial weights.

    Args:
        path: a checkpoint of MMEngine.
        model: the model that training starts with.

    Raises:
        InputError: the file is missing, is no checkpoint of MMEngine, or belongs to a model of
            another size.
    """
    wrong = _unfilled(model, path)
    body = [name for name in wrong if not name.startswith('head.')]
    if body:
        raise InputError(
            f'training cannot start from {path}: {len(body)} weights of backbone and neck are '
            f'missing or have another shape, the first is {body[0]}; use the config of its size'
        )
    if wrong:
        print_log(
            f'{path} fills backbone and neck; {len(wrong)} weights of the head are missing or have '
            'another shape and keep their initial values',
            logger='current',
        )


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Gives a model the weights of a checkpoint.

    Raises:
        InputError: as :func:`check_checkpoint`.
    """
    check_checkpoint(path, model)
    model.load_state_dict(read_checkpoint(path)['state_dict'], strict=False)  # less what it adds


def check_output(path: Path, source: Path) -> None:
    """Makes sure, before the work, that a tool can write a checkpoint where it is told to.

    Raises:
        InputError: it would replace the one that it is made from, or its folder does not exist or
            cannot be written to.
    """
    if path.resolve() == source.resolve():
        raise InputError(f'{path} would replace the file that it is made from; give another name')
    if not path.parent.is_dir():
        raise InputError(f'folder {path.parent.absolute()} does not exist; make it first')
    if path.is_dir():
        raise InputError(f'{path} is a folder; give the name of a file')
    check_folder(path.parent)


def checkpoint_bytes(checkpoint: dict[str, Any]) -> bytes:
    """A checkpoint as the content of a file; equal ones give equal bytes.

    In a file that ``torch.save`` opens itself the file's name is part of the content.
    """
    with io.BytesIO() as file:
        torch.save(checkpoint, file)
        return file.getvalue()


def checkpoint_to_resume(work_dir: str | Path, given: str = 'auto') -> str | None:
    """The checkpoint that a run continues from.

    Args:
        work_dir: where the run keeps its checkpoints.
        given: a checkpoint, or 'auto': the one that ``last_checkpoint`` in there names.

    Returns:
        Its path; None for 'auto' before the first checkpoint.

    Raises:
        InputError: it is missing, damaged or lacks what resuming needs; with the newest good one.
    """
    last = Path(work_dir) / 'last_checkpoint'
    if given == 'auto' and not last.is_file():
        return None
    path = last.read_text().strip() if given == 'auto' else given
    try:
        if not path:
            raise InputError(f'{last} is empty')
        _check_resumable(path)
    except InputError as error:
        folder = Path(path).parent if path else Path(work_dir)
        good = _newest_resumable(folder)
        advice = f'use --resume {good}' if good else f'no other in {folder} can be resumed'
        raise InputError(f'{error}; {advice}') from error
    return path


def _check_resumable(path: str | Path) -> None:
    """Raises if a checkpoint cannot be read or does not hold the whole state of a run."""
    checkpoint = read_checkpoint(path)
    lacks = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
    if lacks:
        raise InputError(f'checkpoint {path} cannot be resumed, it has no {" and no ".join(lacks)}')


def _newest_resumable(folder: Path) -> Path | None:
    for path in sorted(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(InputError):
            _check_resumable(path)
            return path
    return None


def _unfilled(model: nn.Module, path: str | Path) -> list[str]:
    """The model's weights that a checkpoint lacks or has in another shape."""
    found = read_checkpoint(path)['state_dict']
    return [
        name
        for name, value in model.state_dict().items()
        if name not in found or found[name].shape != value.shape
    ]
