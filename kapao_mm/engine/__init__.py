# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hooks and checkpoint handling; importing this package registers them with MMPose."""

from .checkpoint import allow_mmengine_checkpoints, check_checkpoint, require_checkpoint
from .hooks import CheckKeypointsHook

allow_mmengine_checkpoints()

__all__ = [
    'CheckKeypointsHook',
    'allow_mmengine_checkpoints',
    'check_checkpoint',
    'require_checkpoint',
]
