# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Writes a toy dataset of drawn people."""

import argparse
from pathlib import Path

from kapao_mm.datasets.toy.dataset import make_toy_dataset
from kapao_mm.datasets.toy.scene import LEVELS
from kapao_mm.utils.cli import exit_on_input_error


def main() -> None:
    """Parses the command line and writes the dataset."""
    parser = argparse.ArgumentParser('python -m kapao_mm.datasets.toy', description=__doc__)
    parser.add_argument('root', type=Path, help='folder of the dataset')
    parser.add_argument('--level', choices=LEVELS, default='easy', help='difficulty [easy]')
    parser.add_argument('--train', type=int, default=300, help='number of training images [300]')
    parser.add_argument('--val', type=int, default=60, help='number of validation images [60]')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random generator [0]')
    args = parser.parse_args()
    with exit_on_input_error():
        make_toy_dataset(args.root, args.level, args.train, args.val, seed=args.seed)


if __name__ == '__main__':
    main()
