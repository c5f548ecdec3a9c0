# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads and writes COCO-format annotation files."""

import gzip
import json
import os.path as osp
import zlib
from collections.abc import Callable, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_folder

from .checks import structure_faults
from .foreign_formats import refuse_foreign_content, refuse_foreign_file
from .issues import AnnotationIssue
from .normalization import normalize

GZIP = b'\x1f\x8b'
MAX_DEPTH = 32  # maximum nesting of lists and objects; COCO's format has 6


def read_json(path: str | Path, name: str) -> Any:
    """Reads a JSON file in UTF-8, UTF-16 or UTF-32, also with a byte order mark or packed by gzip.

    Args:
        path: File to read.
        name: Kind of the file for messages, such as 'annotation file'.

    Raises:
        InputError: If the file cannot be read, is not JSON, has a key twice in one object, or is
            nested deeper than :data:`MAX_DEPTH`.
    """
    name = f'{name} {osp.abspath(path)}'
    try:
        text = Path(path).read_bytes()
        if text.startswith(GZIP):
            text = _unpack(text)
        content = json.loads(text, object_pairs_hook=_object_without_doubles)
        if _is_deeper(content, MAX_DEPTH):
            raise RecursionError
    except OSError as error:
        raise InputError(f'{name}: {error.strerror}') from error
    except RecursionError as error:
        deep = f'{name} has lists or objects nested more than {MAX_DEPTH} deep: write it again'
        raise InputError(deep) from error
    except ValueError as error:  # from the decoders of text and JSON
        reason = str(error) if text.strip() else 'it is empty'
        raise InputError(f'{name} is not JSON ({reason}): download or write it again') from error
    return content


def read_annotations(
    path: str | Path,
    needed: Sequence[str] = ('images',),
    say: Callable[[str], None] | None = None,
    images: str | Path | None = None,
) -> dict[str, Any]:
    """Reads a COCO-format annotation file and checks that its lists contain objects.

    Unusual but unambiguous values (``"iscrowd": true``) are converted, with a message for each kind
    of value (:mod:`.normalization`). Other values are not checked here, but in :mod:`.checks`.

    Args:
        path: File to read.
        needed: Lists that the file must have, out of 'images', 'annotations' and 'categories'.
        say: Function that receives the messages; by default they are logged as warnings.
        images: Folder of the image files, if it is known. File names written on another machine and
            missing sizes are looked up in it.

    Returns:
        The content of the file. Those of 'images', 'annotations' and 'categories' that exist are
        lists of dicts. Annotations of categories without keypoints have an empty list of them.

    Raises:
        InputError: If :func:`read_json` fails, a needed list is missing, or a list contains
            anything but objects.
    """
    refuse_foreign_file(path)
    content = read_json(path, 'annotation file')
    refuse_foreign_content(path, content)
    raise_faults(path, structure_faults(content, needed))
    for issue in normalize(content, None if images is None else str(images)):
        (say or _warn)(f'annotation file {osp.abspath(path)}: {issue.counted()}')
    return content


def raise_faults(path: str | Path, faults: Sequence[AnnotationIssue], hint: str = '') -> None:
    """Raises an error that names a file and the first of its errors, if there are any.

    Args:
        path: The annotation file.
        faults: Its errors.
        hint: Text that is added to the message.

    Raises:
        InputError: If ``faults`` is not empty.
    """
    if faults:
        more = f' ({len(faults) - 1} more kinds of faults)' if faults[1:] else ''
        raise InputError(f'annotation file {osp.abspath(path)}: {faults[0]}{more}{hint}')


def write_annotations(path: Path, content: dict[str, Any]) -> None:
    """Writes an annotation file completely or not at all, and creates its folder.

    Raises:
        InputError: If the file cannot be written.
    """
    check_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content))


def _unpack(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'gzip cannot unpack it: {error}') from error


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Converts the pairs of a JSON object to a dict; raises ValueError if a key occurs twice.

    Without this hook ``json`` silently keeps the last value of a repeated key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'an object has the key {double!r} twice')
    return found


def _is_deeper(value: Any, limit: int) -> bool:
    """Returns whether lists and objects are nested deeper than a limit."""
    if not isinstance(value, (list, dict)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    if {list, dict}.isdisjoint(map(type, inner)):
        return limit < 1
    return limit < 1 or any(_is_deeper(each, limit - 1) for each in inner)


def _warn(line: str) -> None:
    print_log(line, 'current', WARNING)
