# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes the predictions of a test to a pickle file."""

import mmengine
from mmengine.evaluator import DumpResults
from mmpose.registry import METRICS

from kapao_mm.utils.atomic_file import atomic_path, check_writable


@METRICS.register_module()
class DumpPredictions(DumpResults):
    """MMEngine's DumpResults, with a check of the file before the test and atomic writing.

    Args:
        out_file_path: Path of the file, with the suffix .pkl or .pickle.
        collect_device: As in :class:`DumpResults`.

    Raises:
        InputError: If the file cannot be written.
    """

    def __init__(self, out_file_path: str, collect_device: str = 'cpu') -> None:
        check_writable(out_file_path, ('.pkl', '.pickle'))
        super().__init__(out_file_path, collect_device)

    def compute_metrics(self, results: list) -> dict:
        """Writes the predictions of all images."""
        with atomic_path(self.out_file_path) as temporary:
            mmengine.dump(results, temporary)
        return {}
