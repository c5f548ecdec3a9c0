# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Files that are there whole or not at all, whenever the process is killed."""

import os
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from kapao_mm.errors import InputError

PARTIAL = '.partial'  # ending of a file that is being written


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """MMEngine's local files, written beside their place and moved there when complete.

    Used with ``backend_args=dict(backend='atomic')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes to a file, which keeps its old content until all are on the disk.

        The name of the partial file is fixed: a run finds what a killed one left by it.

        Raises:
            InputError: If the file cannot be written, as on a full disk.
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
        """Writes text as :meth:`put` does."""
        self.put(obj.encode(encoding), filepath)
