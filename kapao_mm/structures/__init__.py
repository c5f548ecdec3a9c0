# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines what travels from suppression to pictures, JSON, evaluation and export, in numpy."""

from .detections import OUTPUT_NAMES, Detections, KeypointObjects, PoseObjects, split_by_image
from .inference_settings import USES, InferenceSettings
from .metainfo import Metainfo
from .prediction import Prediction

__all__ = [
    'OUTPUT_NAMES',
    'USES',
    'Detections',
    'InferenceSettings',
    'KeypointObjects',
    'Metainfo',
    'PoseObjects',
    'Prediction',
    'split_by_image',
]
