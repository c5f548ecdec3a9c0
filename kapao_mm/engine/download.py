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

# Hash as torch.hub, MMPose (followed by a date) and publish_model.py write it into file names.
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})(?:_\d{8})?\.\w+$')
DATE = re.compile(r'20\d{6}')  # a hash hardly ever consists of digits only


def fetch(place: str | Path) -> Path:
    """Returns the local path of a weight file, and downloads it first if it is remote.

    A file with a hash in its name is downloaded once and reused. Other files are downloaded once
    in each process.

    Args:
        place: A path, a URL, or a model name in one of MMEngine's schemes, such as
            ``torchvision://resnet50``.

    Raises:
        InputError: If the file does not exist, cannot be downloaded, or does not match the hash in
            its name.
    """
    place = _look_up(str(place))
    if '://' in place:
        return _download(place)
    path = Path(place).expanduser()
    if not os.path.isfile(path):  # unlike Path.is_file, it does not raise for overlong names
        raise InputError(f'checkpoint {path} does not exist (looked at {path.absolute()})')
    return path


def hash_in_name(name: str) -> str | None:
    """Returns the hash (the first digits of the SHA-256) in a file name, or None without one.

    >>> hash_in_name('kapao_s-1a2b3c4d.pth')
    '1a2b3c4d'
    """
    found = HASH_IN_NAME.search(name)
    return found[1] if found and not DATE.fullmatch(found[1]) else None


def _look_up(place: str) -> str:
    """Returns the URL or path that a name in one of MMEngine's schemes stands for.

    Paths and http URLs are returned unchanged.
    """
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
        raise InputError(f'checkpoint {place} does not exist: the name is unknown') from error
    raise InputError(
        f'checkpoint {place}: {scheme}:// cannot be read; download the file and give its path'
    )


@cache
def _download(url: str) -> Path:
    # A folder for each URL, because files of different URLs may have the same name.
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
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
