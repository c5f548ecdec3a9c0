# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements KAPAO's backbone."""

from .kapao_csp_darknet import KAPAOCSPDarknet

__all__ = ['KAPAOCSPDarknet']
