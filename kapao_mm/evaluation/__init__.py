# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Contains the metrics; importing this package registers them with MMPose."""

from .coco_evaluation import evaluate_results
from .dump_predictions import DumpPredictions
from .kapao_metric import KAPAOMetric
from .results import check_results, make_results, read_results, write_results

__all__ = [
    'DumpPredictions',
    'KAPAOMetric',
    'check_results',
    'evaluate_results',
    'make_results',
    'read_results',
    'write_results',
]
