# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reduces a training checkpoint to what inference needs."""

from typing import Any

from torch import Tensor

from kapao_mm.errors import InputError

# Keys of the checkpoint's meta that describe the training run, not the model.
RUN_META = {'epoch', 'iter', 'seed', 'experiment_name', 'time'}


def publishable(checkpoint: dict[str, Any], half: bool) -> dict[str, Any]:
    """Keeps the entries of a checkpoint that inference needs.

    MMEngine saves the averaged weights as ``state_dict`` and the weights of the training as
    ``ema_state_dict``. Its CheckpointHook can publish checkpoints, too (``published_keys``), but
    keeps the whole meta, and the hash in the file name is that of another file.

    Args:
        checkpoint: MMEngine checkpoint.
        half: Whether to convert the weights to float16.

    Raises:
        InputError: If a weight is too large for float16.
    """
    meta = {k: v for k, v in checkpoint.get('meta', {}).items() if k not in RUN_META}
    weights = dict(checkpoint['state_dict'])
    if half:
        weights = {name: to_half(name, value) for name, value in weights.items()}
    return dict(meta=meta, state_dict=weights)


def to_half(name: str, value: Tensor) -> Tensor:
    """Converts a weight to float16; integer buffers are returned unchanged."""
    if not value.is_floating_point():
        return value
    half = value.half()
    if half.isinf().any():  # weights are finite, read_checkpoint checks that
        raise InputError(f'weight {name} is too large for float16; publish without --half')
    return half
