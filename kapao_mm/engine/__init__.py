# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Training hooks and checkpoint handling; importing this package registers them with MMPose."""

from .checkpoint import (
    check_checkpoint,
    check_output,
    check_training_start,
    checkpoint_bytes,
    load_weights,
    read_checkpoint,
    write_hashed,
)
from .download import fetch
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
from .resume import checkpoint_to_resume, latest_checkpoint, require_no_checkpoints
from .train_loop import ResumableTrainLoop

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
    'check_checkpoint',
    'check_output',
    'check_training_start',
    'checkpoint_bytes',
    'checkpoint_to_resume',
    'fetch',
    'keep_torch_seed',
    'latest_checkpoint',
    'load_weights',
    'read_checkpoint',
    'require_no_checkpoints',
    'write_hashed',
]
