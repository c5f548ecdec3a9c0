# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Hooks and checkpoint handling; importing this package registers them with MMPose."""

from .checkpoint import (
    allow_mmengine_checkpoints,
    check_checkpoint,
    check_output,
    check_training_start,
    checkpoint_bytes,
    checkpoint_to_resume,
    load_weights,
    read_checkpoint,
    require_checkpoint,
)
from .ema import RampedEMA
from .file_backend import AtomicBackend
from .hooks import (
    CheckKeypointsHook,
    EpochSeedHook,
    FastInferenceHook,
    FiniteLossHook,
    PictureHook,
    RecipeHook,
    ResumableEarlyStoppingHook,
    SafeCheckpointHook,
    StepEMAHook,
    keep_torch_seed,
)
from .optim_wrapper import KAPAOOptimWrapper
from .optim_wrapper_constructor import KAPAOOptimWrapperConstructor
from .train_loop import ResumableTrainLoop

allow_mmengine_checkpoints()

__all__ = [
    'AtomicBackend',
    'CheckKeypointsHook',
    'EpochSeedHook',
    'FastInferenceHook',
    'FiniteLossHook',
    'KAPAOOptimWrapper',
    'KAPAOOptimWrapperConstructor',
    'PictureHook',
    'RampedEMA',
    'RecipeHook',
    'ResumableEarlyStoppingHook',
    'ResumableTrainLoop',
    'SafeCheckpointHook',
    'StepEMAHook',
    'allow_mmengine_checkpoints',
    'check_checkpoint',
    'check_output',
    'check_training_start',
    'checkpoint_bytes',
    'checkpoint_to_resume',
    'keep_torch_seed',
    'load_weights',
    'read_checkpoint',
    'require_checkpoint',
]
