# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reduces a training checkpoint to what inference needs, for publishing.

The weights (averaged, if the training averaged them), the metainfo of the dataset and the config
are kept.
"""

import argparse
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='IN', type=Path, help='checkpoint of a training')
    parser.add_argument(
        'out', metavar='OUT', type=Path, help='NAME.pth; its hash is added, as in NAME-1a2b3c4d.pth'
    )
    parser.add_argument('--half', action='store_true', help='float16 weights, half the size')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from torch import Tensor

from kapao_mm.engine import check_output, read_checkpoint, write_hashed

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


def main() -> None:
    """Writes the published checkpoint, and prints its path."""
    args = parse_args()
    check_output(args.out, args.source)
    checkpoint = read_checkpoint(args.source)
    out = write_hashed(publishable(checkpoint, args.half), args.out)
    dropped = sorted(checkpoint.keys() - {'meta', 'state_dict'})
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB; left out: {", ".join(dropped) or "nothing"}')
    print(f'Next: kapao test CONFIG {out}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
