# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts poses: the inferencer, the runtime without torch, and their results.

The names are imported when they are used, because the inferencer needs torch and MMPose, and the
runtime does not.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    'KAPAOInferencer': 'kapao_mm.apis.kapao_inferencer',
    'KAPAORuntime': 'kapao_mm.deploy.runtime',
    'Result': 'kapao_mm.apis.result',
    'load_predictor': 'kapao_mm.apis.load',
}

__all__ = ['KAPAOInferencer', 'KAPAORuntime', 'Result', 'load_predictor']


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_MODULES[name]), name)
