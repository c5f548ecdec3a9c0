# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Data transforms of KAPAO for training and testing."""

from .affine import HorizontalFlip, RandomScaleTranslate
from .formatting import PackKAPAOInputs
from .hsv import HSVGain
from .letterbox import Letterbox
from .loading import CheckedLoadImage
from .mosaic import MosaicScaleTranslate, TracedMosaic

__all__ = [
    'CheckedLoadImage',
    'HSVGain',
    'HorizontalFlip',
    'Letterbox',
    'MosaicScaleTranslate',
    'PackKAPAOInputs',
    'RandomScaleTranslate',
    'TracedMosaic',
]
