# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Metrics; importing this package registers them with MMPose."""

from .kapao_metric import KAPAOMetric

__all__ = ['KAPAOMetric']
