# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes output files completely or not at all, and checks in advance that this is possible."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from kapao_mm.errors import InputError

PARTIAL = '.partial'  # suffix of the temporary folder, which a killed process leaves behind


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, and moves the file to ``path`` when it is complete.

    The temporary path has the same name, in a hidden folder beside ``path``. A writer may create
    several files there (OpenVINO's ``.xml`` and ``.bin``); all of them are moved. If the block
    fails, everything that it wrote is removed, and an existing file keeps its old content.

    Args:
        path: Where the complete file goes; its folder must exist.

    Raises:
        InputError: If the file cannot be written: a full disk, a missing folder, no permission.

    Examples:
        >>> with atomic_path('results.json') as temporary:
        ...     temporary.write_text('{}')
    """
    path = Path(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix='.', suffix=PARTIAL, dir=path.parent))
        try:
            yield folder / path.name
            for file in folder.iterdir():
                _flush(file)
            for file in folder.iterdir():
                os.replace(file, path.with_name(file.name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f'{path.absolute()} cannot be written: {reason}') from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder, and renames it to ``path`` when the block has ended.

    If the block fails, everything that it wrote is removed.

    Raises:
        InputError: If ``path`` exists and is not an empty folder, or cannot be written.
    """
    path = Path(path)
    check_folder(path.absolute().parent)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f'{path.absolute()} exists: give the name of a new folder')
    try:
        with tempfile.TemporaryDirectory(
            prefix='.', suffix=PARTIAL, dir=path.absolute().parent
        ) as folder:
            new = Path(folder) / path.name
            new.mkdir()
            yield new
            os.replace(new, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f'folder {path.absolute()} cannot be written: {reason}') from error


def check_writable(path: str | Path, suffixes: Collection[str] = ()) -> None:
    """Checks, before the work, that a file can be written later, and creates its folder.

    Args:
        path: Path of the future file.
        suffixes: Allowed suffixes; any by default.

    Raises:
        InputError: If the suffix is not allowed, the path is a folder, or its folder cannot be
            written to.
    """
    path = Path(path)
    if suffixes and path.suffix not in suffixes:
        raise InputError(f'{path} must end in {" or ".join(suffixes)}')
    if os.path.isdir(path):  # unlike Path.is_dir, it does not raise for overlong names
        raise InputError(f'{path} is a folder; give the name of a file')
    check_folder(path.absolute().parent)
    with atomic_path(path) as temporary:
        temporary.touch()
        temporary.unlink()


def check_folder(folder: str | Path) -> None:
    """Checks, before the work, that files can be written into a folder, and creates the folder.

    Raises:
        InputError: If the folder cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix='.', suffix=PARTIAL, dir=folder).cleanup()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f'folder {folder.absolute()} cannot be written to: {reason}') from error


def _flush(file: Path) -> None:
    """Forces a file's content onto the disk."""
    with file.open('r+b') as opened:
        os.fsync(opened.fileno())
