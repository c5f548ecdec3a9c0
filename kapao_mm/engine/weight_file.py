# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads weight files, local or remote, without running anything in them."""

import hashlib
import os
import pickletools
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, checkpoint
from torch import Tensor

from kapao_mm.errors import InputError

from .pickle_bounds import require_bounded_tuples

# As torch.hub, MMPose (with a date behind it) and publish_model.py write it into a name.
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})(?:_\d{8})?\.\w+$')
DATE = re.compile(r'20\d{6}')  # digits only, as a hash hardly ever has
ZIP = b'PK\x03\x04'  # how a file begins that torch reads as a zip archive
CONVERTER = 'python tools/model_converters/official_to_mm.py'


def fetch(place: str | Path) -> Path:
    """Returns the path of a weight file, and downloads it first if it is remote.

    Files with a hash in their name are downloaded once, others once in each process.

    Args:
        place: A path, a URL, or a model of one of MMEngine's schemes, such as
            ``torchvision://resnet50``.

    Raises:
        InputError: If the file does not exist, cannot be downloaded, or is not what its name says.
    """
    place = _look_up(str(place))
    if '://' in place:
        return _download(place)
    path = Path(place).expanduser()
    if not os.path.isfile(path):  # also for names that no file can have
        raise InputError(f'checkpoint {path} does not exist (looked at {path.absolute()})')
    return path


def read_weight_file(place: str | Path, map_location: Any = 'cpu', mmap: bool = False) -> Any:
    """Reads a file of ``torch.save``; tensors, plain containers and MMEngine's records only.

    Args:
        place: As for :func:`fetch`.
        map_location: As for ``torch.load``.
        mmap: Whether tensors are read from the file when they are used.

    Raises:
        InputError: If the file is missing or damaged, is of another kind, holds anything that
            would have to be executed, or has weights that are not finite.
    """
    path = fetch(place)
    check_integrity(path)
    try:
        content = torch.load(
            path, map_location, weights_only=True, mmap=mmap and _starts_with_zip(path)
        )
        broken = _not_finite(content, path.stat().st_size)
    except Exception as error:  # a hostile file can make the reader raise anything
        raise InputError(_describe(path, error)) from error
    if broken:
        raise InputError(
            f'checkpoint {path} is of no use: {len(broken)} weights are not finite, the first is '
            f'{broken[0]}; use an older checkpoint'
        )
    return content


def use_safe_reader() -> None:
    """Makes MMEngine read every weight file by :func:`read_weight_file`.

    MMEngine's own loaders execute what pickles from the internet say. This covers weights that a
    config names (``init_cfg``), MMPose's inferencers and ``init_model``.
    """
    CheckpointLoader.register_scheme(
        [*CheckpointLoader._schemes], load_from_safe_reader, force=True
    )


def load_from_safe_reader(filename: str, map_location: Any = None) -> Any:
    """Reads a weight file for MMEngine, which prints the end of this function's name."""
    content = read_weight_file(filename, map_location)
    if filename.startswith('mmcls://'):
        return checkpoint._process_mmcls_checkpoint(content)
    return content


def check_integrity(path: Path) -> None:
    """Makes sure that a file is what the hash in its name and the checksums inside it say.

    Raises:
        InputError: If it is not, or if it would take more memory than it is long.
    """
    stat = path.stat()
    _check_integrity(path.absolute(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _check_integrity(path: Path, size: int, modified: int) -> None:
    if expected := hash_in_name(path.name):
        with path.open('rb') as file:
            found = hashlib.file_digest(file, 'sha256').hexdigest()
        if not found.startswith(expected):
            raise InputError(
                f'{path} is damaged, or another file than its name says: its SHA-256 begins with '
                f'{found[: len(expected)]}; rename it if you trust it'
            )
    if not _starts_with_zip(path):
        _check_old_format(path, size)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > size:
                raise zipfile.BadZipFile('compressed or overlapping parts')
            damaged = archive.testzip()
            pickles = [name for name in archive.namelist() if name.endswith('.pkl')]
            for name in () if damaged else pickles:
                with archive.open(name) as file:
                    _require_bounded_tuples(path, file, size)
    except InputError:
        raise
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(
            f'{path} cannot be read safely: its zip archive is damaged ({error})'
        ) from error
    if damaged:
        raise InputError(
            f'{path} cannot be read safely: it is damaged, the checksum of {damaged} is wrong'
        )


def _check_old_format(path: Path, size: int) -> None:
    """Checks the pickles that a file of torch before 1.6 begins with."""
    with path.open('rb') as file:
        for _ in range(5):
            _require_bounded_tuples(path, file, size)


def _require_bounded_tuples(path: Path, file: BinaryIO, size: int) -> None:
    try:
        require_bounded_tuples(file, size)
    except UnpicklingError as error:
        raise InputError(f'{path} cannot be read safely: {error}') from error
    except Exception:  # no pickle, which its reader says better
        return


def hash_in_name(name: str) -> str | None:
    """Returns the beginning of a file's SHA-256 that its name holds; None where there is none.

    >>> hash_in_name('kapao_s-1a2b3c4d.pth')
    '1a2b3c4d'
    """
    found = HASH_IN_NAME.search(name)
    return found[1] if found and not DATE.fullmatch(found[1]) else None


def _look_up(place: str) -> str:
    """The URL or path of a model of MMEngine's schemes; anything else as it is."""
    scheme, remote, name = place.partition('://')
    if not remote or scheme in ('http', 'https'):
        return place
    try:
        match scheme:
            case 'torchvision' | 'modelzoo':
                return checkpoint.get_torchvision_models()[name]
            case 'mmcls':
                return checkpoint.get_mmcls_models()[name]
            case 'open-mmlab' | 'openmmlab':
                name = checkpoint.get_deprecated_model_names().get(name, name)
                found = checkpoint.get_external_models()[name]
                home = checkpoint._get_mmengine_home()
                return found if '://' in found else str(Path(home) / found)
    except KeyError as error:
        raise InputError(f'checkpoint {place} does not exist: no such name is known') from error
    raise InputError(
        f'checkpoint {place}: {scheme}:// cannot be read; download the file and give its path'
    )


@cache
def _download(url: str) -> Path:
    name = Path(unquote(urlsplit(url).path)).name or 'checkpoint'
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]  # other URLs have files of that name
    path = Path(torch.hub.get_dir()) / 'checkpoints' / folder / name
    expected = hash_in_name(name)
    if expected and path.is_file():
        return path
    print_log(f'downloading {url} to {path}', 'current')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), expected, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise InputError(f'checkpoint {url} cannot be downloaded: {error}') from error
    return path


def _starts_with_zip(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(len(ZIP)) == ZIP


def _not_finite(content: Any, size: int) -> list[str]:
    """The names of weights that are not finite, in a file of so many bytes."""
    broken = []
    for name, value in _weights(content):
        if value.numel() * value.element_size() > size:
            raise ValueError(f'{name} claims to be larger than the file')
        if not value.isfinite().all():
            broken.append(str(name))
    return broken


def _weights(content: Any) -> Iterator[tuple[Any, Tensor]]:
    """The weights of a checkpoint and their averages, or of a file with nothing but weights."""
    if not isinstance(content, dict):
        return
    for part in (content.get('state_dict', content), content.get('ema_state_dict')):
        if isinstance(part, dict):
            yield from ((name, v) for name, v in part.items() if isinstance(v, Tensor))


def _describe(path: Path, error: Exception) -> str:
    """One line of why a file cannot be read, and what to do."""
    with suppress(Exception):
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if any(name.startswith('models.') for name in classes):
            return (
                f'checkpoint {path} is a pickled model, as KAPAO and YOLOv5 are released; convert '
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
