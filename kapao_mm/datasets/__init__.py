# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Datasets and transforms that MMPose lacks."""

from . import transforms
from .keypoint_dataset import KeypointDataset
from .metainfo import read_metainfo

__all__ = ['KeypointDataset', 'read_metainfo', 'transforms']
