# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Prediction on images from Python."""

from .kapao_inferencer import KAPAOInferencer

__all__ = ['KAPAOInferencer']
