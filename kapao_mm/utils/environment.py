# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks whether the installed packages are compatible with this package and each other.

The accepted versions come from the metadata of this package (``pyproject.toml``).
"""

import importlib
import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from kapao_mm.errors import InputError

TRAINING_PYTHON = (3, 11)  # the version that training was tested with
EXTRAS = ('train', 'export', 'onnxruntime', 'openvino')  # extras in pyproject.toml
OPENCV = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)
LIGHT_MMCV = 'pip uninstall mmcv mmcv-lite; pip install mmcv-lite==2.1.0'
FULL_MMCV = 'pip uninstall mmcv mmcv-lite; pip install mmcv==2.1.0'


class Part(NamedTuple):
    """One row of the report.

    Attributes:
        name: Name of the package or of the check.
        found: Installed version or state; empty if missing.
        wanted: Accepted versions.
        remedy: Command that fixes the problem; empty if there is none.
        needed: Whether training, testing or prediction fail without it.
    """

    name: str
    found: str
    wanted: str
    remedy: str = ''
    needed: bool = True


def check_environment() -> list[Part]:
    """Checks Python, the required packages, and their compatibility."""
    return [
        _python(),
        *_packages(),
        _package(Requirement('mmpose>=1.3.2,<1.4'), options='--no-deps '),
        _mmcv(),
        _opencv(),
        *_mismatches(),
        _compiler(),
    ]


def _python() -> Part:
    found = '.'.join(map(str, sys.version_info[:3]))
    wanted = '.'.join(map(str, TRAINING_PYTHON))
    fits = sys.version_info[:2] == TRAINING_PYTHON
    remedy = f'make an environment with it: python{wanted} -m venv NAME'
    return Part('Python', found, wanted, '' if fits else remedy)


def _packages() -> Iterator[Part]:
    for extra in EXTRAS:
        for requirement in _requirements(extra):
            if requirement.name != 'mmcv-lite':  # see _mmcv
                yield _package(requirement, needed=extra == 'train')


def _package(requirement: Requirement, needed: bool = True, options: str = '') -> Part:
    found = _installed(requirement.name)
    fits = found and requirement.specifier.contains(found, prereleases=True)
    remedy = '' if fits else f"pip install {options}'{requirement.name}{requirement.specifier}'"
    return Part(requirement.name, found, str(requirement.specifier), remedy, needed)


def _requirements(extra: str) -> list[Requirement]:
    """Returns the requirements of an extra of this package.

    Raises:
        InputError: If this package is not installed.
    """
    try:
        lines = metadata.requires('kapao-mm') or []
    except metadata.PackageNotFoundError as error:
        raise InputError('kapao-mm is not installed: pip install --no-deps .') from error
    requirements = map(Requirement, lines)
    return [r for r in requirements if r.marker and r.marker.evaluate({'extra': extra})]


def _installed(name: str) -> str:
    """Returns the installed version of a package, or an empty text if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ''


def _load_error(module: str) -> str:
    """Imports a module, and returns the error text if that fails."""
    try:
        importlib.import_module(module)
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        return str(error) or 'it cannot be imported'
    return ''


def _mmcv() -> Part:
    light, full = _installed('mmcv-lite'), _installed('mmcv')
    accepted = next(r.specifier for r in _requirements('train') if r.name == 'mmcv-lite')
    remedy = ''
    if (light and full) or not accepted.contains(light or full or '0'):
        remedy = LIGHT_MMCV
    elif full and importlib.util.find_spec('mmcv._ext') is None:
        remedy = f'its operators are missing: {FULL_MMCV}'
    elif full and _load_error('mmcv._ext'):
        remedy = f'its operators were compiled for another torch: {FULL_MMCV}'
    found = [f'{light} light'] * bool(light) + [f'{full} full'] * bool(full)
    return Part('mmcv', ' and '.join(found), f'{accepted}, light or full', remedy)


def _opencv() -> Part:
    found = {name: version for name in OPENCV if (version := _installed(name))}
    remedy = '' if found else 'pip install opencv-python'
    if len(found) > 1:
        remedy = f'keep one: pip uninstall {" ".join(found)}; pip install opencv-python'
    names = ', '.join(map(' '.join, found.items()))
    return Part('OpenCV', names, '>=4.8,<6, one of its packages', remedy)


def _mismatches() -> Iterator[Part]:
    """Checks pairs of installed packages that must be compatible with each other."""
    torch, torchvision = _installed('torch'), _installed('torchvision')
    if torch and torchvision:
        minor = Version(torch).minor + 15  # torch 2.1 and torchvision 0.16 belong together
        fits = Version(torchvision).minor == minor
        remedy = '' if fits else f"pip install 'torchvision==0.{minor}.*'"
        yield Part('torchvision for torch', torchvision, f'0.{minor}.*', remedy)
    if _installed('xtcocotools'):
        broken = _load_error('xtcocotools.mask')
        state, remedy = ('does not load', 'pip install pycocotools') if broken else ('loads', '')
        yield Part('xtcocotools with numpy', state, 'loads', remedy)


def _compiler() -> Part:
    packages = {
        'python3-dev': Path(sysconfig.get_path('include'), 'Python.h').is_file(),
        'g++': shutil.which('c++') is not None,
    }
    missing = [name for name, exists in packages.items() if not exists]
    return Part(
        'to compile MMCV (full)',
        f'{" and ".join(missing)} missing' if missing else 'possible',
        'only for other models of MMPose',
        f'apt install {" ".join(missing)}' if missing else '',
        needed=False,
    )
