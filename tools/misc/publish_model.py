# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Makes a checkpoint of a training one to give away.

Weights (the averaged ones, where there are any), dataset and config stay; the rest goes.
"""

import argparse
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError, exit_on_input_error


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
    parse_args()  # answers --help and wrong arguments before the imports below, which take seconds

from torch import Tensor

from kapao_mm.engine import check_output, read_checkpoint, write_hashed

RUN_META = {'epoch', 'iter', 'seed', 'experiment_name', 'time'}  # of the training, not the model


def publishable(checkpoint: dict[str, Any], half: bool) -> dict[str, Any]:
    """What of a checkpoint inference needs.

    MMEngine saves the average of the weights as ``state_dict`` and the weights themselves as
    ``ema_state_dict``. Its CheckpointHook can publish too (``published_keys``), but keeps all of
    the meta and names the file by the hash of something else.

    Args:
        checkpoint: of MMEngine.
        half: make the weights float16.

    Raises:
        InputError: a weight is too large for float16.
    """
    meta = {k: v for k, v in checkpoint.get('meta', {}).items() if k not in RUN_META}
    weights = dict(checkpoint['state_dict'])
    if half:
        weights = {name: to_half(name, value) for name, value in weights.items()}
    return dict(meta=meta, state_dict=weights)


def to_half(name: str, value: Tensor) -> Tensor:
    """A weight as float16; counters stay integers."""
    if not value.is_floating_point():
        return value
    half = value.half()
    if half.isinf().any():  # the weights themselves are finite, or they would not have been read
        raise InputError(f'weight {name} is too large for float16; publish without --half')
    return half


def main() -> None:
    """Reads, takes, writes, and says where."""
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
