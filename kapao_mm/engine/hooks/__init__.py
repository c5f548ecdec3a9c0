# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from .check_keypoints_hook import CheckKeypointsHook
from .epoch_seed_hook import EpochSeedHook, keep_torch_seed
from .fast_inference_hook import FastInferenceHook
from .finite_loss_hook import FiniteLossHook
from .picture_hook import PictureHook
from .recipe_hook import RecipeHook
from .resumable_early_stopping_hook import ResumableEarlyStoppingHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .step_ema_hook import StepEMAHook

__all__ = [
    'CheckKeypointsHook',
    'EpochSeedHook',
    'FastInferenceHook',
    'FiniteLossHook',
    'PictureHook',
    'RecipeHook',
    'ResumableEarlyStoppingHook',
    'SafeCheckpointHook',
    'StepEMAHook',
    'keep_torch_seed',
]
