# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Finds left/right pairs of keypoints by their names."""

import re
from collections.abc import Iterator, Sequence

# Patterns of a side in a keypoint name, the most reliable first: a separate word (left_eye, hip-R,
# L F paw), a word inside another (leftEye, eyeright), a capital at the end of a word (eyeL), the
# first letter (lwrist).
SIDES = (
    re.compile(r'(?<![^\W\d_])(left|right|l|r)(?![^\W\d_])', re.IGNORECASE),
    re.compile(r'(left|right)', re.IGNORECASE),
    re.compile(r'(?<=[a-z])[LR](?![a-z])'),
    re.compile(r'^[lr]', re.IGNORECASE),
)
SIDE_WORD = re.compile(r'(?<![^\W\d_])(left|right)(?![^\W\d_])', re.IGNORECASE)
OPPOSITE = dict(left='right', right='left', l='r', r='l')


def left_right_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Returns pairs of keypoints whose names differ only in their side, see :data:`SIDES`.

    Case is ignored. A pair needs both names: 'light' is not the left side of anything if there is
    no 'right'.

    Returns:
        Indices (left, right) into ``names``, sorted by the left index.
    """
    index = {name.lower(): i for i, name in enumerate(names)}

    def partner(name: str) -> tuple[int | None, str]:
        """Returns the index of the mirrored keypoint, or None, and the side of ``name``."""
        return next(((index[m], side) for m, side in _mirrored(name) if m in index), (None, ''))

    found = [partner(name) for name in names]
    return [(i, j) for i, (j, side) in enumerate(found) if side == 'l' and found[j] == (i, 'r')]


def lone_sides(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Returns names that contain the word left or right but belong to no pair."""
    paired = {i for pair in pairs for i in pair}
    return [n for i, n in enumerate(names) if i not in paired and SIDE_WORD.search(n)]


def _mirrored(name: str) -> Iterator[tuple[str, str]]:
    """Yields candidate names of the mirrored keypoint, each with the side of ``name``.

    Candidates are in lower case, the most likely first; the side is 'l' or 'r'. If a name contains
    several sides, first all of them are swapped (left corner of the left eye), then each one alone
    (in R_R_paw one R may mean rear).
    """
    for pattern in SIDES:
        sides = list(pattern.finditer(name))
        for changing in (sides, *([side] for side in sides)):
            mirrored = name
            for side in reversed(changing):
                opposite = OPPOSITE[side.group().lower()]
                mirrored = mirrored[: side.start()] + opposite + mirrored[side.end() :]
            if changing:
                yield mirrored.lower(), changing[0].group()[0].lower()
