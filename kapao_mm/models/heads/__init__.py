# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
from .kapao_head import KAPAOHead, KAPAOHeadModule

__all__ = ['KAPAOHead', 'KAPAOHeadModule']
