# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks checkpoints against the model that they are meant for, and loads them."""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor, nn

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_folder

from .file_backend import AtomicBackend
from .weight_file import read_weight_file
from .weights_only import allow_globals


def allow_mmengine_checkpoints() -> None:
    """Lets ``weights_only`` reading accept what MMEngine writes, and nothing else.

    MMEngine keeps arrays of the dataset's metainfo and the history of logged values in its
    checkpoints; the history refers to its own methods by ``getattr``.
    """
    reconstruct, _, _ = np.empty(0).__reduce__()
    scalar, _ = np.float64().__reduce__()
    kinds = (np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64)
    allow_globals(
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


def read_checkpoint(place: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of MMEngine, its tensors only when they are used.

    Args:
        place: A path or a URL, as for :func:`fetch`.

    Raises:
        InputError: As :func:`read_weight_file`; or if the file is no checkpoint of MMEngine.
    """
    checkpoint = read_weight_file(place, mmap=True)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise InputError(f'checkpoint {place} has no state_dict; give one that kapao train wrote')
    meta = checkpoint.get('meta') or {}
    if not isinstance(meta, dict) or not isinstance(meta.get('dataset_meta', {}), dict):
        raise InputError(f'checkpoint {place} has a meta that is no dict; it is none of MMEngine')
    weights = checkpoint['state_dict']
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InputError(f'checkpoint {place} has a state_dict that is no dict of named weights')
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


def write_hashed(checkpoint: dict[str, Any], path: Path) -> Path:
    """Writes a checkpoint to a file that has the beginning of its own SHA-256 in its name.

    Args:
        checkpoint: What to write.
        path: NAME.pth.

    Returns:
        The path of the file, as NAME-1a2b3c4d.pth.
    """
    content = checkpoint_bytes(checkpoint)
    path = path.with_stem(f'{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}')
    AtomicBackend().put(content, path)
    return path


def _unfilled(model: nn.Module, place: str | Path) -> list[str]:
    """Names of the model's weights that a checkpoint lacks or has of another shape or kind."""
    found = read_checkpoint(place)['state_dict']
    return [
        name
        for name, value in model.state_dict().items()
        if not isinstance(found.get(name), Tensor)
        or found[name].shape != value.shape
        or found[name].is_floating_point() != value.is_floating_point()
    ]
