# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks whether the installed packages are compatible with this package and each other.

The accepted versions come from the metadata of this package (``pyproject.toml``).
"""

import importlib
import importlib.util
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from kapao_mm.errors import InputError

TRAINING_PYTHON = (3, 11)  # the version that training was tested with
USES = {  # extra in pyproject.toml -> purpose
    'train': 'training, testing and prediction',
    'export': 'export to ONNX',
    'onnxruntime': 'exported .onnx files',
    'openvino': 'exported .xml files',
}
OPENCV = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)
FULL_MMCV = 'pip uninstall mmcv-lite; pip install mmcv==2.1.0'


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
        *(
            _package(requirement, needed=use == 'train')
            for use in USES
            for requirement in _requirements(use)
            if requirement.name != 'mmcv-lite'
        ),
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


def _requirements(use: str) -> list[Requirement]:
    """Returns the requirements of an extra of this package.

    Raises:
        InputError: If this package is not installed.
    """
    try:
        lines = metadata.requires('kapao-mm') or []
    except metadata.PackageNotFoundError as error:
        raise InputError('kapao-mm is not installed: pip install --no-deps .') from error
    requirements = map(Requirement, lines)
    return [r for r in requirements if r.marker and r.marker.evaluate({'extra': use})]


def _installed(name: str) -> str:
    """Returns the installed version of a package, or an empty text if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ''


def _package(requirement: Requirement, needed: bool = True, options: str = '') -> Part:
    found = _installed(requirement.name)
    fits = found and requirement.specifier.contains(found, prereleases=True)
    remedy = '' if fits else f"pip install {options}'{requirement.name}{requirement.specifier}'"
    return Part(requirement.name, found, str(requirement.specifier), remedy, needed)


def _mmcv() -> Part:
    light, full = _installed('mmcv-lite'), _installed('mmcv')
    wanted = str(next(r.specifier for r in _requirements('train') if r.name == 'mmcv-lite'))
    found = ' and '.join([*[f'{light} light'] * bool(light), *[f'{full} full'] * bool(full)])
    remedy = ''
    if light and full:
        remedy = 'pip uninstall mmcv mmcv-lite; pip install mmcv-lite==2.1.0'
    elif not Requirement(f'mmcv{wanted}').specifier.contains(light or full or '0'):
        remedy = 'pip uninstall mmcv; pip install mmcv-lite==2.1.0'
    elif full and importlib.util.find_spec('mmcv._ext') is None:
        remedy = f'its operators are missing: {FULL_MMCV}'
    elif full:
        try:
            importlib.import_module('mmcv._ext')
        except ImportError:
            remedy = (
                f'its operators were compiled for another torch: pip uninstall mmcv; {FULL_MMCV}'
            )
    return Part('mmcv', found, f'{wanted}, light or full', remedy)


def _opencv() -> Part:
    found = [f'{name} {_installed(name)}' for name in OPENCV if _installed(name)]
    remedy = ''
    if not found:
        remedy = 'pip install opencv-python'
    elif len(found) > 1:
        names = ' '.join(entry.split()[0] for entry in found)
        remedy = f'keep one: pip uninstall {names}; pip install opencv-python'
    return Part('OpenCV', ', '.join(found), '>=4.8,<6, one of its packages', remedy)


def _mismatches() -> list[Part]:
    """Checks pairs of installed packages that must be compatible with each other."""
    parts = []
    torch, torchvision = _installed('torch'), _installed('torchvision')
    if torch and torchvision:
        minor = Version(torch).minor + 15  # torch 2.1 and torchvision 0.16 belong together
        fits = Version(torchvision).minor == minor
        parts.append(
            Part(
                'torchvision for torch',
                torchvision,
                f'0.{minor}.*',
                '' if fits else f"pip install 'torchvision==0.{minor}.*'",
            )
        )
    if _installed('xtcocotools'):
        try:
            importlib.import_module('xtcocotools.mask')
            state, remedy = 'loads', ''
        except (ImportError, ValueError):
            state, remedy = 'does not load', 'pip install pycocotools'
        parts.append(Part('xtcocotools with numpy', state, 'loads', remedy))
    return parts


def _compiler() -> Part:
    headers = Path(sysconfig.get_path('include'), 'Python.h').is_file()
    compiler = shutil.which('c++') is not None
    lacks = [*['Python headers'] * (not headers), *['a C++ compiler'] * (not compiler)]
    packages = [*['python3-dev'] * (not headers), *['g++'] * (not compiler)]
    return Part(
        'to compile MMCV (full)',
        'possible' if not lacks else f'lacks {" and ".join(lacks)}',
        'only for other models of MMPose',
        f'apt install {" ".join(packages)}' if lacks else '',
        needed=False,
    )
