# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Inference; importing this package also makes arguments of MMPose's inferencers act on KAPAO."""

from .kapao_inferencer import KAPAOInferencer
from .mmpose_arguments import let_thresholds_act

let_thresholds_act()

__all__ = ['KAPAOInferencer']
