# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from .assigner import AnchorRatioAssigner

__all__ = ['AnchorRatioAssigner']
