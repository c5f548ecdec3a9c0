# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds the checkpoint to resume from, and checks that runs do not share a folder."""

import os
import re
from contextlib import suppress
from pathlib import Path

from mmengine.logging import print_log

from kapao_mm.errors import InputError

from .checkpoint import read_checkpoint
from .download import fetch

RUN_NAMES = r'(best_.+_)?(epoch|iter)_\d+\.pth'  # MMEngine's checkpoint names


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """Returns the checkpoint that the file ``last_checkpoint`` in a work directory names.

    That file contains a full path. A checkpoint with the same name in the work directory is
    preferred, because the directory may have been moved or copied.

    Returns:
        The path of the checkpoint; None if there is no ``last_checkpoint``.

    Raises:
        InputError: If ``last_checkpoint`` is empty.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    if not pointer.is_file():
        return None
    lines = pointer.read_text(encoding='utf-8', errors='replace').strip().splitlines()
    if not lines:
        raise InputError(f'{pointer} is empty')
    text = lines[0]
    here = Path(work_dir) / os.path.basename(text)
    return here if os.path.isfile(here) else Path(text)


def checkpoint_to_resume(work_dir: str | Path, given: str = 'auto') -> str | None:
    """Returns the checkpoint to resume a run from.

    Args:
        work_dir: Folder with the checkpoints of the run.
        given: Path or URL of a checkpoint, or 'auto' for the latest one in ``work_dir``.

    Returns:
        The path of the checkpoint; None for 'auto' if ``work_dir`` has no checkpoints.

    Raises:
        InputError: If the checkpoint is missing, damaged or incomplete; the message names the
            newest one that can be resumed.
    """
    auto = given == 'auto'
    folder = Path(work_dir) if auto or '://' in given else Path(given).parent
    try:
        path = latest_checkpoint(folder) if auto else fetch(given)
        if path is None:
            return _newest_without_pointer(folder)
        if os.path.isfile(path):
            folder = path.parent
        _check_resumable(path)
    except InputError as error:
        good = _newest_resumable(folder)
        advice = f'use --resume {good}' if good else f'{folder} has no checkpoint to resume'
        raise InputError(f'{error}; {advice}') from error
    return str(path)


def require_no_checkpoints(folder: str | Path, names: str = RUN_NAMES) -> None:
    """Checks that a folder holds no checkpoints of another run.

    Args:
        folder: Folder for the checkpoints of a new run.
        names: Regular expression of the new run's checkpoint names.

    Raises:
        InputError: If the folder holds files with such names.
    """
    if found := _matching(Path(folder), names):
        raise InputError(
            f'{folder} has checkpoints of another run ({len(found)}, such as {found[0]}); continue '
            'it with --resume, choose another --work-dir, or overwrite them with --overwrite '
            '(default_hooks.checkpoint.overwrite=True)'
        )


def _newest_without_pointer(folder: Path) -> str | None:
    """Returns the newest resumable checkpoint of a folder without ``last_checkpoint``.

    Returns:
        Its path; None if the folder has no checkpoints.

    Raises:
        InputError: If the folder has checkpoints, but none can be resumed.
    """
    if newest := _newest_resumable(folder):
        print_log(f'{folder} has no last_checkpoint; resuming its newest, {newest}', 'current')
        return str(newest)
    if found := _matching(folder, RUN_NAMES):
        raise InputError(f'{folder} has no last_checkpoint, and {found[0]} cannot be resumed')
    return None


def _check_resumable(path: str | Path) -> None:
    """Raises InputError if a checkpoint cannot be read or lacks a part of the run's state."""
    checkpoint = read_checkpoint(path)
    needed = ('meta', 'message_hub', 'optimizer')
    missing = [key for key in needed if not isinstance(checkpoint.get(key), dict)]
    if missing:
        raise InputError(f'checkpoint {path} cannot be resumed: {", ".join(missing)} missing')


def _newest_resumable(folder: Path) -> Path | None:
    """Returns the resumable checkpoint with the highest number in its name.

    Among equal numbers the one that was written last is returned.
    """
    for path in sorted(folder.glob('*.pth'), key=_progress, reverse=True):
        with suppress(InputError):
            if not path.name.startswith('non_finite'):  # the run would stop again
                _check_resumable(path)
                return path
    return None


def _progress(path: Path) -> tuple[int, float]:
    number = re.search(r'(\d+)\.pth$', path.name)
    return (int(number[1]) if number else -1, path.stat().st_mtime)


def _matching(folder: Path, names: str) -> list[str]:
    return sorted(path.name for path in folder.glob('*') if re.fullmatch(names, path.name))
