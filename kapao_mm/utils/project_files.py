# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds the configs and tools of this package in a checkout or an installed wheel."""

import difflib
from pathlib import Path

from kapao_mm.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]


def project_dir() -> Path:
    """Returns the folder with ``configs`` and ``tools``: a checkout, or ``.mim`` in the package."""
    installed = PACKAGE / '.mim'
    return installed if installed.is_dir() else PACKAGE.parent


def config_names() -> list[str]:
    """Returns the names of this package's configs in alphabetical order."""
    return sorted(path.stem for path in (project_dir() / 'configs' / 'kapao').glob('*.py'))


def find_config(name: str | Path) -> Path:
    """Finds a config file by its path or by the name of one of this package's configs.

    Args:
        name: Path, or one of :func:`config_names`, with or without ``.py``. A size alone, such as
            ``kapao-s``, is the config for COCO, and ``-`` counts as ``_``.

    Raises:
        InputError: If there is no such file and no such name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = config_names()
    plain = path.name.removesuffix('.py').replace('-', '_')
    for stem in (plain, f'{plain}_coco'):
        if path.name == str(name) and stem in known:
            return project_dir() / 'configs' / 'kapao' / f'{stem}.py'
    near = difflib.get_close_matches(path.stem, known, n=3)
    hint = f'; did you mean {" or ".join(near)}?' if near else '; `kapao configs` lists the names'
    raise InputError(f'config file {path.absolute()} does not exist{hint}')
