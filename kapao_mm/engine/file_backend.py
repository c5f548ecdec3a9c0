# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""File backend of MMEngine that writes files completely or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from kapao_mm.errors import InputError

PARTIAL = '.partial'  # suffix of a file that is being written


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """Local file backend that writes to a temporary file and renames it when it is complete.

    A killed process never leaves an incomplete file under the final name. Select it with
    ``backend_args=dict(backend='atomic')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes to a file, which keeps its old content until all bytes are on the disk.

        The temporary file is named ``filepath`` plus ``.partial``, so that a later run can find and
        remove the one that a killed run left behind.

        Raises:
            InputError: If the file cannot be written, for example because the disk is full.
        """
        path = Path(filepath)
        partial = path.with_name(path.name + PARTIAL)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise InputError(
                f'{path.absolute()} cannot be written: {error.strerror or error}'
            ) from error

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Writes text to a file in the same way as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)
