# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Contains the inferencer."""

from .kapao_inferencer import KAPAOInferencer

__all__ = ['KAPAOInferencer']
