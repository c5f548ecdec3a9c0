# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads local or remote weight files without running code in them."""

import hashlib
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from mmengine.runner import CheckpointLoader, checkpoint
from torch import Tensor

from kapao_mm.errors import InputError

from .download import fetch, hash_in_name
from .model_family import pickled_family
from .pickle_bounds import require_bounded_tuples
from .weights_only import load_weights_only, unknown_globals

ZIP = b'PK\x03\x04'  # first bytes of a file that torch reads as a zip archive
CONVERTER = 'kapao convert'
SUFFIXES = ('.ckpt', '.pt', '.pth', '.safetensors')  # of weight files


def read_weight_file(place: str | Path, map_location: Any = 'cpu', mmap: bool = False) -> Any:
    """Reads a file of ``torch.save`` that holds tensors, plain containers and MMEngine's objects.

    Args:
        place: Path, URL or model name, as in :func:`fetch`.
        map_location: As in ``torch.load``.
        mmap: Whether to memory-map the file, so that tensors are read when they are used.

    Raises:
        InputError: If the file is missing, damaged or of another kind, contains code, or has
            weights that are not finite.
    """
    path = fetch(place)
    check_integrity(path)
    try:
        content = load_weights_only(path, map_location, mmap and _starts_with_zip(path))
        broken = _not_finite(content, path.stat().st_size)
    except Exception as error:  # a hostile file can make the reader raise anything
        raise InputError(_describe(path, error)) from error
    if broken:
        raise InputError(
            f'checkpoint {path} is of no use: {len(broken)} weights are not finite, the first is '
            f'{broken[0]}; use an older checkpoint'
        )
    return content


def is_weight_file(place: str | Path | None) -> bool:
    """Returns whether a path or URL names a weight file, judged by its suffix."""
    return place is not None and str(place).partition('?')[0].lower().endswith(SUFFIXES)


def use_safe_reader() -> None:
    """Makes MMEngine read every weight file with :func:`read_weight_file`.

    MMEngine's own loaders execute code in pickles, also in downloaded ones. This applies to weights
    that a config names (``init_cfg``), to MMPose's inferencers and to ``init_model``.
    """
    CheckpointLoader.register_scheme(
        [*CheckpointLoader._schemes], load_from_safe_reader, force=True
    )


def load_from_safe_reader(filename: str, map_location: Any = None) -> Any:
    """Reads a weight file as a loader of MMEngine.

    MMEngine prints a part of this function's name in its log.
    """
    content = read_weight_file(filename, map_location)
    if filename.startswith('mmcls://'):
        return checkpoint._process_mmcls_checkpoint(content)
    return content


def check_integrity(path: Path) -> None:
    """Checks a file against the hash in its name and the checksums inside it.

    Raises:
        InputError: If a hash or checksum differs, or reading the file would need more memory than
            the size of the file.
    """
    size = path.stat().st_size
    if expected := hash_in_name(path.name):
        with path.open('rb') as file:
            found = hashlib.file_digest(file, 'sha256').hexdigest()
        if not found.startswith(expected):
            raise InputError(
                f'{path} is damaged or was renamed: its name has a hash, but not that of its '
                f'content ({found[: len(expected)]}); remove it from the name if you trust the file'
            )
    try:
        if _starts_with_zip(path):
            _check_zip(path, size)
        else:
            with path.open('rb') as file:
                for _ in range(5):  # a file of torch before 1.6 starts with five pickles
                    _check_pickle(file, size)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f'{path} cannot be read safely: {error}') from error


def _check_zip(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if any(name.endswith('/constants.pkl') for name in names):
                raise UnpicklingError('it is a TorchScript file; use the checkpoint of the model')
            if sum(entry.file_size for entry in entries) > size:
                raise UnpicklingError('its parts are compressed or overlap')
            if damaged := archive.testzip():
                raise UnpicklingError(f'it is damaged: the checksum of {damaged} is wrong')
            for name in names:
                if name.endswith('.pkl'):
                    with archive.open(name) as file:
                        _check_pickle(file, size)
    except UnpicklingError:
        raise
    except Exception as error:
        raise UnpicklingError(f'its zip archive is damaged ({error})') from error


def _check_pickle(file: BinaryIO, size: int) -> None:
    try:
        require_bounded_tuples(file, size)
    except UnpicklingError:
        raise
    except Exception:  # not a pickle; torch's reader gives the better message
        return


def _starts_with_zip(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(len(ZIP)) == ZIP


def _not_finite(content: Any, size: int) -> list[str]:
    """Returns the names of weights that are not finite.

    Args:
        content: Content of the file.
        size: Size of the file in bytes.

    Raises:
        ValueError: If a weight is sparse or larger than the file.
    """
    broken = []
    for name, value in _weights(content):
        if value.layout != torch.strided:  # torch does not check its indices
            raise ValueError(f'{name} is a sparse tensor')
        if value.numel() * value.element_size() > size:
            raise ValueError(f'{name} claims to be larger than the file')
        if not value.isfinite().all():
            broken.append(str(name))
    return broken


def _weights(content: Any) -> Iterator[tuple[Any, Tensor]]:
    """Yields names and tensors of a checkpoint's weights and averaged weights.

    A file that is only a dict of weights is accepted, too.
    """
    if not isinstance(content, dict):
        return
    for part in (content.get('state_dict', content), content.get('ema_state_dict')):
        if isinstance(part, dict):
            yield from ((name, v) for name, v in part.items() if isinstance(v, Tensor))


def _describe(path: Path, error: Exception) -> str:
    """Returns a message that says why a file cannot be read and what to do."""
    with suppress(Exception):
        names = unknown_globals(path)
        if family := pickled_family(names):
            return (
                f'checkpoint {path} is {family}, whose layers do not fit; docs/training.md lists '
                'the weights that do'
            )
        if any(name.startswith('models.') for name in names):
            return (
                f'checkpoint {path} is a pickled model like those of KAPAO and YOLOv5; convert '
                f'it first: {CONVERTER} {path} {path.stem}.pth'
            )
    return f'checkpoint {path} cannot be read safely: {reason(error)}'


def reason(error: Exception) -> str:
    """Returns why torch refused a file, without its advice to trust the file."""
    text = str(error.__context__ or error).strip() or type(error).__name__
    opcode = re.fullmatch(r'Unsupported operand (\d+)', text)
    if opcode:
        known = pickletools.code2op.get(chr(int(opcode[1])))
        return f'it uses pickle opcode {known.name if known else opcode[1]}, which is not allowed'
    return text.splitlines()[0].split('. ')[0]
