# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Contains the visualizer, which draws pose objects, keypoint objects and fused poses."""

from .kapao_visualizer import KAPAOVisualizer
from .mlflow_backend import KAPAOMLflowVisBackend

__all__ = ['KAPAOMLflowVisBackend', 'KAPAOVisualizer']
