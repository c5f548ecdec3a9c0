# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Prepares MMPose's inferencers for KAPAO when it is imported; ``custom_imports`` names it.

From then on the thresholds that MMPose's inferencers are called with work on KAPAO.
"""

from .mmpose_arguments import let_thresholds_act

let_thresholds_act()
