# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Contains the inferencer.

Importing this package also makes thresholds that MMPose's inferencers are called with work on
KAPAO.
"""

from .kapao_inferencer import KAPAOInferencer
from .mmpose_arguments import let_thresholds_act

let_thresholds_act()

__all__ = ['KAPAOInferencer']
