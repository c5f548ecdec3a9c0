# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reads and writes COCO-format annotation files.

Unusual but unambiguous values, such as ``"iscrowd": true``, are converted with a warning.
"""

import json
import math
import os.path as osp
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path

from .checks import Finding, find_entries, structure_faults

MAX_DEPTH = 32  # maximum nesting of lists and objects; COCO's format has 6
MISSING = object()  # marks a key that an entry lacks or shall lose


class Reading(NamedTuple):
    """Rule that converts unusual values of a key to those of COCO's files.

    Attributes:
        kind: List of the file that has the entries.
        key: Key of the values.
        what: Description of the entries with unusual values, for messages.
        becomes: Description of the conversion, for messages.
        read: Function that returns the value to use for an entry: the unchanged value if nothing
            is to be converted, or :data:`MISSING` to remove the key.
    """

    kind: str
    key: str
    what: str
    becomes: str
    read: Callable[[dict], Any]


def read_json(path: str | Path, name: str) -> Any:
    """Reads a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: File to read.
        name: Kind of the file for messages, such as 'annotation file'.

    Raises:
        InputError: If the file cannot be read, is not JSON, has a key twice in one object, or is
            nested deeper than :data:`MAX_DEPTH`.
    """
    where = f'{name} {osp.abspath(path)}'
    try:
        text = Path(path).read_bytes()
        content = json.loads(text, object_pairs_hook=_object_without_doubles)
        if _is_deeper(content, MAX_DEPTH):
            raise RecursionError
    except OSError as error:
        raise InputError(f'{where}: {error.strerror}') from error
    except RecursionError as error:
        raise InputError(
            f'{where} has lists or objects nested more than {MAX_DEPTH} deep: write it anew'
        ) from error
    except ValueError as error:  # from the decoders of text and JSON
        reason = str(error) if text.strip() else 'it is empty'
        raise InputError(f'{where} is not JSON ({reason}): download or write it anew') from error
    return content


def read_annotations(
    path: str | Path,
    needed: Sequence[str] = ('images',),
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Reads a COCO-format annotation file and checks that its lists contain objects.

    Unusual but unambiguous values (``"iscrowd": true``) are converted to those of COCO, with a
    message for each key. The values are checked by :mod:`annotation_checks`, not here.

    Args:
        path: File to read.
        needed: Lists that the file must have, out of 'images', 'annotations' and 'categories'.
        say: Function that receives the messages; by default they are logged as warnings.

    Returns:
        The content of the file. Those of 'images', 'annotations' and 'categories' that exist are
        lists of dicts.

    Raises:
        InputError: If :func:`read_json` fails, a needed list is missing, or a list contains
            anything but objects.
    """
    content = read_json(path, 'annotation file')
    faults = structure_faults(content, needed)
    if faults:
        raise InputError(f'annotation file {osp.abspath(path)}: {faults[0]}')
    for found in _read_clear_values(content):
        count = f'{len(found.places)} {found.what} ({found.first_ids()}): {found.remedy}'
        (say or _warn)(f'annotation file {osp.abspath(path)}: {count}')
    return content


def raise_faults(path: str | Path, faults: Sequence[Finding]) -> None:
    """Raises an error that names a file and the first of its errors, if there are any.

    Raises:
        InputError: If ``faults`` is not empty.
    """
    if faults:
        more = f' ({len(faults) - 1} more kinds of faults)' if faults[1:] else ''
        raise InputError(f'annotation file {osp.abspath(path)}: {faults[0]}{more}')


def write_annotations(path: Path, content: dict[str, Any]) -> None:
    """Writes an annotation file completely or not at all, and creates its folder.

    Raises:
        InputError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{path.absolute()} cannot be written: {error.strerror}') from error
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content))


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
    print_log(line, 'current', 30)


def _read_clear_values(content: dict[str, Any]) -> list[Finding]:
    """Converts values by the rules in :data:`READINGS`, in place, and returns what was found."""
    findings = []
    for kind, key, what, becomes, read in READINGS:
        entries = content.get(kind, [])
        values = [read(entry) if key in entry else MISSING for entry in entries]
        changed = [
            key in entry and value is not entry[key]
            for entry, value in zip(entries, values, strict=True)
        ]
        flags = iter(changed)
        found = find_entries(kind, entries, what, becomes, lambda _, flags=flags: next(flags))
        for place in found.places:
            if values[place] is MISSING:
                del entries[place][key]
            else:
                entries[place][key] = values[place]
        findings += [found] if found.places else []
    return findings


def _read_crowd(entry: dict) -> Any:
    value = entry['iscrowd']
    if value is None or isinstance(value, bool):
        return int(bool(value))
    return int(value) if value in ('0', '1') else value


def _read_area(entry: dict) -> Any:
    value = entry['area']
    if value is None:
        return MISSING
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _read_count(entry: dict) -> Any:
    """Returns ``num_keypoints``, or MISSING if it cannot be a valid count.

    A missing count is computed from the visibilities when it is needed. Valid counts that differ
    from the visibilities are kept, because those of CrowdPose exclude head and neck.
    """
    value, keypoints = entry['num_keypoints'], entry.get('keypoints')
    if not (type(value) in (int, float) and value >= 0 and value == value // 1):
        return MISSING
    if value and isinstance(keypoints, list) and not any(keypoints[2::3]):
        return MISSING
    return value


def _read_unlabelled(image: dict) -> Any:
    value = image['not_exhaustive_category_ids']
    return MISSING if value is None else value


READINGS = (
    Reading(
        'annotations',
        'iscrowd',
        "annotations whose 'iscrowd' is true, false, null or text",
        'read as 1 or 0, null as 0',
        _read_crowd,
    ),
    Reading(
        'annotations',
        'area',
        "annotations whose 'area' is null or text",
        'read as missing or as the number',
        _read_area,
    ),
    Reading(
        'annotations',
        'num_keypoints',
        "annotations whose 'num_keypoints' is no number or counts what is not labelled",
        'counted anew',
        _read_count,
    ),
    Reading(
        'images',
        'not_exhaustive_category_ids',
        "images whose 'not_exhaustive_category_ids' is null",
        'read as none',
        _read_unlabelled,
    ),
)
