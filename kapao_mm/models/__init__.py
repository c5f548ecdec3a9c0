# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Contains KAPAO's model parts; importing this package registers them with MMPose."""

from .backbones import KAPAOCSPDarknet
from .data_preprocessor import KAPAODataPreprocessor
from .heads import KAPAOHead, KAPAOHeadModule
from .kapao import KAPAO
from .losses import KAPAOLoss
from .necks import KAPAOPAFPN
from .task_modules import AnchorRatioAssigner
from .tta import KAPAOTTA

__all__ = [
    'KAPAO',
    'KAPAOPAFPN',
    'KAPAOTTA',
    'AnchorRatioAssigner',
    'KAPAOCSPDarknet',
    'KAPAODataPreprocessor',
    'KAPAOHead',
    'KAPAOHeadModule',
    'KAPAOLoss',
]
