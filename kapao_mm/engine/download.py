# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds weight files by path, URL or name, and downloads them."""

import hashlib
import os
import re
import sys
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
from mmengine.logging import print_log
from mmengine.runner import checkpoint

from kapao_mm.errors import InputError

# As torch.hub, MMPose (with a date behind it) and publish_model.py write it into a name.
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})(?:_\d{8})?\.\w+$')
DATE = re.compile(r'20\d{6}')  # digits only, as a hash hardly ever has


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
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]  # other URLs have files of that name
    try:
        name = Path(unquote(urlsplit(url).path)).name or 'checkpoint'
        path = Path(torch.hub.get_dir()) / 'checkpoints' / folder / name
        expected = hash_in_name(name)
        if expected and path.is_file():
            return path
        print_log(f'downloading {url} to {path}', 'current')
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), expected, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise InputError(f'checkpoint {url} cannot be downloaded: {error}') from error
    return path
