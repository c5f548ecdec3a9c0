# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from .check_keypoints_hook import CheckKeypointsHook

__all__ = ['CheckKeypointsHook']
