# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds the checkpoint to resume from, and checks that two runs do not use the same folder.

The latest checkpoint is the one that MMEngine's file ``last_checkpoint`` names. The newest one is
the one with the highest number in its name.
"""

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
    """Returns the checkpoint that the file ``last_checkpoint`` of a work directory names.

    The file contains a full path. If the work directory itself has a checkpoint of the same name,
    that one is returned, because the directory may have been moved or copied.

    Args:
        work_dir: Work directory of a run.

    Returns:
        The path of the checkpoint, which may not exist; None if there is no ``last_checkpoint``.

    Raises:
        InputError: If ``last_checkpoint`` is empty.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    if not pointer.is_file():
        return None
    lines = pointer.read_text(encoding='utf-8', errors='replace').strip().splitlines()
    if not lines:
        raise InputError(f'{pointer} is empty')
    named = lines[0]
    here = Path(work_dir) / os.path.basename(named)
    return here if os.path.isfile(here) else Path(named)


def checkpoint_to_resume(work_dir: str | Path, given: str = 'auto') -> str | None:
    """Returns the checkpoint to resume a run from, after a check that it can be resumed.

    Args:
        work_dir: Work directory of the run, which contains its checkpoints.
        given: Path or URL of a checkpoint, or 'auto' for the latest one in ``work_dir``. Without
            ``last_checkpoint``, 'auto' takes the newest one that can be resumed.

    Returns:
        The path of the checkpoint; None for 'auto' if ``work_dir`` has no checkpoints of a run.

    Raises:
        InputError: If the checkpoint is missing, damaged or incomplete. The message then names the
            newest one in the same folder that can be resumed.
    """
    auto = given == 'auto'
    folder = Path(work_dir) if auto or '://' in given else Path(given).parent
    try:
        path = latest_checkpoint(folder) if auto else fetch(given)
        if path is None:
            return _newest_or_none(folder)
        if os.path.isfile(path):
            folder = path.parent
        _check_resumable(path)
    except InputError as error:
        good = _newest_resumable(folder)
        advice = f'use --resume {good}' if good else f'{folder} has no checkpoint to resume'
        raise InputError(f'{error}; {advice}') from error
    return str(path)


def require_no_checkpoints(folder: str | Path, names: str = RUN_NAMES) -> None:
    """Checks that a folder has no checkpoints of another run.

    Args:
        folder: Folder for the checkpoints of a new run.
        names: Regular expression for the names of the new run's checkpoints.

    Raises:
        InputError: If the folder has files with such names.
    """
    if found := _matching(Path(folder), names):
        raise InputError(
            f'{folder} has checkpoints of another run ({len(found)}, such as {found[0]}); continue '
            'it with --resume, choose another --work-dir, or overwrite them with --overwrite '
            '(default_hooks.checkpoint.overwrite=True)'
        )


def _newest_or_none(folder: Path) -> str | None:
    """Returns the newest checkpoint that can be resumed in a folder without ``last_checkpoint``.

    Returns:
        The path of the checkpoint; None if the folder has no checkpoints of a run.

    Raises:
        InputError: If the folder has checkpoints of a run, but none of them can be resumed.
    """
    if newest := _newest_resumable(folder):
        print_log(f'{folder} has no last_checkpoint; resuming the newest, {newest}', 'current')
        return str(newest)
    if found := _matching(folder, RUN_NAMES):
        raise InputError(f'{folder} has no last_checkpoint, and {found[0]} cannot be resumed')
    return None


def _check_resumable(path: str | Path) -> None:
    """Checks that a checkpoint has all that a run needs to continue.

    Raises:
        InputError: If the checkpoint cannot be read, or has no meta, message hub or optimizer.
    """
    checkpoint = read_checkpoint(path)
    needed = ('meta', 'message_hub', 'optimizer')
    missing = [key for key in needed if not isinstance(checkpoint.get(key), dict)]
    if missing:
        raise InputError(f'checkpoint {path} cannot be resumed: {", ".join(missing)} missing')


def _newest_resumable(folder: Path) -> Path | None:
    """Returns the newest checkpoint of a folder that can be resumed, or None if there is none.

    Among checkpoints with the same number, it is the one that was written last. Those that
    ``FiniteLossHook`` saved before a loss that is not finite are not considered, because the
    continued run would stop at the same batch.
    """
    for path in sorted(folder.glob('*.pth'), key=_progress, reverse=True):
        with suppress(InputError):
            if not path.name.startswith('non_finite'):
                _check_resumable(path)
                return path
    return None


def _progress(path: Path) -> tuple[int, float]:
    """Returns the epoch or iteration in the name of a checkpoint, and the time of its writing."""
    number = re.search(r'(\d+)\.pth$', path.name)
    return (int(number[1]) if number else -1, path.stat().st_mtime)


def _matching(folder: Path, names: str) -> list[str]:
    """Returns the sorted names of the files of a folder that match a regular expression."""
    return sorted(path.name for path in folder.glob('*') if re.fullmatch(names, path.name))
