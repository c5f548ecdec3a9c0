# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes results to files as they come: JSON, JSON lines, CSV and COCO results.

A file has a temporary name until it is closed, except JSON lines, which can be read meanwhile.
"""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.media.inputs import Source
from kapao_mm.structures import Metainfo
from kapao_mm.structures.prediction import JSON_VERSION
from kapao_mm.utils.atomic_file import check_writable

from .result import Result


class ResultWriter:
    """Writes results to a file, one after the other; a context manager that closes it.

    Args:
        path: Path of the file, which is replaced when the writer is closed.
        temporary: Whether the file has a temporary name until it is closed.

    Raises:
        InputError: If the path is a folder, or its folder cannot be written to.
    """

    def __init__(self, path: Path, temporary: bool = True) -> None:
        check_writable(path)
        self.path = path
        self._open_path = path.with_name(f'.{path.name}.{os.getpid()}') if temporary else path
        self._file = self._open_path.open('w', encoding='utf-8', newline='')
        self._begin()

    def write(self, result: Result) -> None:
        """Writes a result.

        Raises:
            InputError: If it cannot be written, for example to a full disk.
        """
        with self._errors():
            self._write(result)

    def close(self) -> None:
        """Completes the file, also if it has no result or only a part of them.

        Raises:
            InputError: If it cannot be written. Nothing half-written is left, except JSON lines.
        """
        if self._file.closed:
            return
        with self._errors():
            try:
                self._end()
                self._file.close()
                self._open_path.replace(self.path)
            except OSError:
                with suppress(OSError):
                    self._file.close()
                if self._open_path != self.path:
                    self._open_path.unlink(missing_ok=True)
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f'{self.path.absolute()} cannot be written: {error.strerror}'
            ) from error

    def _write(self, result: Result) -> None:
        raise NotImplementedError

    def __enter__(self) -> 'ResultWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Writes what comes before the results."""

    def _end(self) -> None:
        """Writes what comes after the results."""


class JSONLinesWriter(ResultWriter):
    """Writes the JSON of each result as a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, temporary=False)

    def _write(self, result: Result) -> None:
        """Writes a result, so that it can be read at once."""
        self._file.write(result.to_json() + '\n')
        self._file.flush()


class JSONListWriter(ResultWriter):
    """Writes one JSON list; a derived class adds the items of each result."""

    before, after = '[', '\n]\n'

    def _begin(self) -> None:
        self._count = 0
        self._file.write(self.before)

    def _add(self, item: Any) -> None:
        self._file.write(('\n' if self._count == 0 else ',\n') + json.dumps(item, allow_nan=False))
        self._count += 1

    def _end(self) -> None:
        self._file.write(self.after)


class COCOWriter(JSONListWriter):
    """Writes COCO result records, see :meth:`Result.to_coco`; those of videos have ``frame``."""

    def _write(self, result: Result) -> None:
        """Writes the records of a result."""
        for record in result.to_coco():
            if result.frame is not None:
                record['frame'] = result.frame
            self._add(record)


class VideoJSONWriter(JSONListWriter):
    """Writes a JSON dict of a video, with the results of its frames in ``frames``.

    Args:
        path: Path of the file.
        name: Name of the video in the file.
        source: The video.
        metainfo: Names of categories and keypoint types.
    """

    after = '\n]}\n'

    def __init__(self, path: Path, name: str, source: Source, metainfo: Metainfo) -> None:
        width, height = source.size or (None, None)
        head = dict(
            version=JSON_VERSION,
            video=name,
            fps=source.fps,
            width=width,
            height=height,
            keypoint_names=metainfo.names_by_category(),
        )
        self.before = json.dumps(head)[:-1] + ', "frames": ['
        super().__init__(path)

    def _write(self, result: Result) -> None:
        """Writes the result of a frame."""
        content = result.to_dict()
        for repeated in ('version', 'image', 'width', 'height', 'keypoint_names'):
            content.pop(repeated)
        self._add(dict(frame=content.pop('frame'), time=content.pop('time'), **content))


class CSVWriter(ResultWriter):
    """Writes a row for each pose, see :meth:`Result.to_rows`."""

    def _begin(self) -> None:
        self._table: csv.DictWriter | None = None

    def _write(self, result: Result) -> None:
        """Writes the rows of a result, and before the first one the names of the columns."""
        if self._table is None:
            self._table = csv.DictWriter(self._file, result.columns)
            self._table.writeheader()
        self._table.writerows(result.to_rows())


# Files for all inputs together, by format.
TABLES = {'jsonl': JSONLinesWriter, 'csv': CSVWriter, 'coco': COCOWriter}
TABLE_NAMES = {'jsonl': 'poses.jsonl', 'csv': 'poses.csv', 'coco': 'poses.keypoints.json'}
