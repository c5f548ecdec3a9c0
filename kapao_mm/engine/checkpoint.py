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
from .model_family import CONVERTIBLE, KAPAO, model_family
from .weight_file import CONVERTER, read_weight_file

PARTIAL = 'partial'  # key in the meta of a converted checkpoint that lacks some weights


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
        what = _describe_family(checkpoint)
        raise InputError(
            f'checkpoint {place} has no state_dict{what}; use one that kapao train wrote'
        )
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
            f'another shape, the first is {wrong[0]}; '
            + _advice(path, 'use the config that it was trained with')
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
    checkpoint = read_checkpoint(path)
    if (checkpoint.get('meta') or {}).get(PARTIAL):  # missing weights are known, others must fit
        body = [name for name in body if name in checkpoint['state_dict']]
    if body:
        raise InputError(
            f'training cannot start from {path}: {len(body)} weights of backbone and neck are '
            f'missing or have another shape, the first is {body[0]}; '
            + _advice(path, 'use the config of its size')
        )
    if wrong:
        print_log(_describe_start(path, wrong, model), logger='current')


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


def _describe_start(path: str | Path, unfilled: list[str], model: nn.Module) -> str:
    """Returns a line about the weights that a checkpoint fills and those that start anew."""
    body = [name for name in unfilled if not name.startswith('head.')]
    if not body:
        return (
            f'{path} fills backbone and neck; {len(unfilled)} weights of the head are missing or '
            'have another shape and keep their initial values'
        )
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    total = sum(sizes.values())
    filled = total - sum(sizes[name] for name in unfilled)
    return (
        f'{path} fills {filled:,} of {total:,} numbers of the model; {len(body)} weights of '
        f'backbone and neck, and {len(unfilled) - len(body)} of the head, keep their initial values'
    )


def _advice(place: str | Path, otherwise: str) -> str:
    """Returns what to do with a checkpoint that does not fit: what it is, if not KAPAO's."""
    family = model_family(read_checkpoint(place)['state_dict'])
    if family in CONVERTIBLE:
        name = Path(place).stem
        return f'it is {family}; take what fits: {CONVERTER} {place} {name}_kapao.pth'
    if family and family != KAPAO:
        return f'it is {family}, whose layers do not fit; docs/training.md lists what does'
    return otherwise


def _describe_family(content: Any) -> str:
    """Returns a clause about the kind of model in a file of bare weights, or nothing."""
    weights = content.get('model', content) if isinstance(content, dict) else {}
    names = weights if isinstance(weights, dict) else {}
    family = model_family(name for name in names if isinstance(name, str))
    return f' (it is {family})' if family else ''
