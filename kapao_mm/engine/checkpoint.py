# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads and writes checkpoints, and checks that they fit a model."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import check_folder

from .file_backend import AtomicBackend
from .weight_file import read_weight_file


def read_checkpoint(place: str | Path) -> dict[str, Any]:
    """Reads an MMEngine checkpoint; its tensors are memory-mapped and read when they are used.

    Args:
        place: Path or URL, as in :func:`fetch`.

    Raises:
        InputError: If :func:`read_weight_file` refuses the file, or it is not an MMEngine
            checkpoint.
    """
    checkpoint = read_weight_file(place, mmap=True)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise InputError(f'checkpoint {place} has no state_dict; use one that kapao train wrote')
    meta = checkpoint.get('meta') or {}
    if not isinstance(meta, dict) or not isinstance(meta.get('dataset_meta', {}), dict):
        raise InputError(f'checkpoint {place} is not from MMEngine: its meta is not a dict')
    weights = checkpoint['state_dict']
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InputError(f'checkpoint {place} is not from MMEngine: its weights have no names')
    return checkpoint


def check_checkpoint(path: str | Path, model: nn.Module) -> None:
    """Checks that a checkpoint can be read and has a value for every weight of the model.

    MMEngine only warns about weights that are missing or have another shape, and continues with
    random values.

    Args:
        path: MMEngine checkpoint.
        model: Model that will load the checkpoint.

    Raises:
        InputError: If the file is missing, is not an MMEngine checkpoint, or belongs to another
            model.
    """
    wrong = _unfilled(model, path)
    if wrong:
        raise InputError(
            f'checkpoint {path} does not fit the config: {len(wrong)} weights are missing or have '
            f'another shape, the first is {wrong[0]}; use the config that it was trained with'
        )


def check_training_start(path: str | Path, model: nn.Module) -> None:
    """Checks that a checkpoint has a value for every weight of a model's backbone and neck.

    The head may be missing or belong to other keypoints. Its unmatched weights keep their initial
    values, and their number is logged.

    Args:
        path: MMEngine checkpoint.
        model: Model that will be trained.

    Raises:
        InputError: If the file is missing, is not an MMEngine checkpoint, or belongs to a model of
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
    """Loads the weights of a checkpoint into a model.

    Raises:
        InputError: If :func:`check_checkpoint` refuses the checkpoint.
    """
    check_checkpoint(path, model)
    # Not strict: the checkpoint may hold additional weights, which are ignored.
    model.load_state_dict(read_checkpoint(path)['state_dict'], strict=False)


def check_output(path: Path, source: Path) -> None:
    """Checks, before a tool starts its work, that it can write a checkpoint to ``path``.

    Args:
        path: File that will be written.
        source: Input file of the tool.

    Raises:
        InputError: If ``path`` is the same file as ``source``, is a folder, or lies in a folder
            that does not exist or cannot be written to.
    """
    if path.resolve() == source.resolve():
        raise InputError(f'{path} would overwrite the input file; use another name')
    if not path.parent.is_dir():
        raise InputError(f'folder {path.parent.absolute()} does not exist; create it first')
    if path.is_dir():
        raise InputError(f'{path} is a folder; give a file name')
    check_folder(path.parent)


def checkpoint_bytes(checkpoint: dict[str, Any]) -> bytes:
    """Serializes a checkpoint; equal checkpoints give equal bytes.

    ``torch.save`` with a path would write the name of the file into its content.
    """
    with io.BytesIO() as file:
        torch.save(checkpoint, file)
        return file.getvalue()


def write_hashed(checkpoint: dict[str, Any], path: Path) -> Path:
    """Writes a checkpoint to a file whose name contains the first 8 digits of its SHA-256.

    Args:
        checkpoint: Checkpoint to write.
        path: Path without the hash, such as ``NAME.pth``.

    Returns:
        The path of the written file, such as ``NAME-1a2b3c4d.pth``.
    """
    content = checkpoint_bytes(checkpoint)
    path = path.with_stem(f'{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}')
    AtomicBackend().put(content, path)
    return path


def _unfilled(model: nn.Module, place: str | Path) -> list[str]:
    """Returns the names of model weights that are missing in a checkpoint or do not fit.

    A weight does not fit if its shape differs, or if only one of the two is floating point.
    """
    found = read_checkpoint(place)['state_dict']
    return [
        name
        for name, value in model.state_dict().items()
        if not isinstance(found.get(name), Tensor)
        or found[name].shape != value.shape
        or found[name].is_floating_point() != value.is_floating_point()
    ]
