# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""File backend of MMEngine that writes files completely or not at all."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from kapao_mm.utils.atomic_file import atomic_path, check_folder


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """Local file backend that writes with :func:`atomic_path`, for checkpoints.

    A killed process never leaves an incomplete file under the final name. Select it with
    ``backend_args=dict(backend='atomic')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes to a file, and creates its folder.

        Raises:
            InputError: If the file cannot be written, for example because the disk is full.
        """
        check_folder(Path(filepath).parent)
        with atomic_path(filepath) as temporary:
            temporary.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Writes text to a file in the same way as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)
