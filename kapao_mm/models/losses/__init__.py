# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from .kapao_loss import KAPAOLoss

__all__ = ['KAPAOLoss']
