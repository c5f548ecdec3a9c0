# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Reduces a training checkpoint to what inference needs, for publishing.

The weights (averaged, if the training averaged them), the metainfo of the dataset and the config
are kept.
"""

import argparse
from pathlib import Path

from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='IN', type=Path, help='training checkpoint')
    parser.add_argument(
        'out', metavar='OUT', type=Path, help='NAME.pth; its hash is added, as in NAME-1a2b3c4d.pth'
    )
    parser.add_argument('--half', action='store_true', help='float16 weights, half the size')
    return parser.parse_args()


def main() -> None:
    """Writes the published checkpoint, and prints its path."""
    args = parse_args()
    from kapao_mm.engine import check_output, read_checkpoint, write_hashed
    from kapao_mm.engine.publish import publishable

    check_output(args.out, args.source)
    checkpoint = read_checkpoint(args.source)
    out = write_hashed(publishable(checkpoint, args.half), args.out)
    dropped = sorted(checkpoint.keys() - {'meta', 'state_dict'})
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB; left out: {", ".join(dropped) or "nothing"}')
    print(f'Next: kapao test CONFIG {out}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
