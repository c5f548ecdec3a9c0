# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Datasets and transforms of KAPAO; importing this package registers them with MMPose."""

from . import transforms
from .combined_dataset import CombinedKeypointDataset
from .keypoint_dataset import KeypointDataset
from .metainfo import read_metainfo

__all__ = ['CombinedKeypointDataset', 'KeypointDataset', 'read_metainfo', 'transforms']
