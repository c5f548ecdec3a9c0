# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines issues of annotation files and the rules that find them."""

import os.path as osp
from collections.abc import Callable, Iterable, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from .values import has_id

SHOWN = 3  # number of ids in a message


class AnnotationIssue(NamedTuple):
    """An error or a suspicious detail in an annotation file.

    Attributes:
        kind: Kind of the entries: 'file', 'metainfo' (keypoint types), 'images', 'annotations' or
            'categories'.
        what: Description of the entries, such as "annotations without 'bbox'".
        remedy: What to do about them, or how they are treated.
        ids: Ids of the entries, or texts with the positions of those without a valid id. Empty if
            the issue concerns the whole file.
        indices: Indices of the entries in the list named by ``kind``.
    """

    kind: str
    what: str
    remedy: str
    ids: Sequence[int | str] = ()
    indices: Sequence[int] = ()

    def __str__(self) -> str:
        return f'{self.what}{": " if self.ids else ""}{self._first_ids()}; {self.remedy}'

    def counted(self) -> str:
        """Returns the message with the number of entries in front."""
        if not self.ids:
            return str(self)
        count = len(self.indices or self.ids)
        return f'{count} {self.what} ({self._first_ids()}); {self.remedy}'

    def _first_ids(self) -> str:
        more = len(self.ids) - SHOWN
        return ', '.join(map(str, self.ids[:SHOWN])) + (f' and {more} more' if more > 0 else '')


class Rule(NamedTuple):
    """Texts of an :class:`AnnotationIssue`, and a function that tells whether an entry has it."""

    what: str
    remedy: str
    applies: Callable[..., Any]


def tell(
    path: str | Path, issues: Iterable[AnnotationIssue], say: Callable[[str], None] | None = None
) -> None:
    """Tells a message for each issue that does not stop the work.

    Args:
        path: The annotation file.
        issues: Its issues.
        say: Function that receives the messages; by default they are logged as warnings.
    """
    for issue in issues:
        line = f'annotation file {osp.abspath(path)}: {issue.counted()}'
        say(line) if say else print_log(line, 'current', WARNING)


def find_issues(
    kind: str, entries: list[dict], rules: Iterable[Rule], *context: Any
) -> list[AnnotationIssue]:
    """Returns an issue for each rule that applies to at least one entry of a list.

    Args:
        kind: Name of the list, see :class:`AnnotationIssue`.
        entries: The list.
        rules: Rules for a single entry.
        *context: Further arguments of the rules.
    """
    issues = []
    for what, remedy, applies in rules:
        indices = [i for i, entry in enumerate(entries) if applies(entry, *context)]
        if indices:
            ids = list(dict.fromkeys(_id_text(kind, i, entries[i]) for i in indices))
            issues.append(AnnotationIssue(kind, what, remedy, ids, indices))
    return issues


def _id_text(kind: str, index: int, entry: dict) -> int | str:
    return entry['id'] if has_id(entry) else f'{kind}[{index}] (id {entry.get("id")!r})'
