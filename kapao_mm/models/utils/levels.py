# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Checks that backbone, neck, head and loss of a config have the same number of levels."""

import inspect
from typing import Any

from mmpose.registry import MODELS

from kapao_mm.errors import InputError


def check_levels(
    backbone: dict[str, Any], neck: dict[str, Any] | None, head: dict[str, Any]
) -> None:
    """Checks that each part of a model has one value for each level of the backbone.

    Args:
        backbone: Config of the backbone.
        neck: Config of the neck, or None.
        head: Config of the head.

    Raises:
        InputError: If the numbers of levels differ; the message names all settings.
    """
    neck = neck or {}
    counts = {
        'head.in_channels': _count(head.get('in_channels')),
        'head.strides': _count(head.get('strides')),
        'head.anchors': _count(head.get('anchors')),
        'head.loss.obj_level_weights': _count((head.get('loss') or {}).get('obj_level_weights')),
    }
    if neck.get('type') == 'KAPAOPAFPN':  # other necks may add levels or drop some
        counts = {
            'backbone.out_indices': _count(_out_indices(backbone)),
            'neck.in_channels': _count(neck.get('in_channels')),
            **counts,
        }
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) <= 1:
        return
    levels = next(iter(known.values()))
    listed = ', '.join(f'{name} {count}' for name, count in known.items())
    raise InputError(
        f'the parts of the model have different numbers of levels: {listed}; give '
        f'{levels} value{"s" * (levels != 1)} each, finest level first (strides and anchors in px '
        'of the network input, in_channels as the backbone has them, such as '
        f'model.head.strides={[8 * 2**i for i in range(levels)]})'
    )


def _out_indices(backbone: dict[str, Any]) -> Any:
    """Returns the output levels in the config of a backbone, or those of its class."""
    if 'out_indices' in backbone:
        return backbone['out_indices']
    cls = MODELS.get(backbone.get('type', ''))
    parameter = inspect.signature(cls.__init__).parameters.get('out_indices') if cls else None
    return None if parameter is None else parameter.default


def _count(values: Any) -> int | None:
    return len(values) if isinstance(values, (list, tuple)) else None
