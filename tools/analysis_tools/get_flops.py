# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Counts the parameters of a config's model and its multiply-adds for one image.

Only convolutions are counted, because batch norm is folded into them for inference. Some papers
count a multiply-add as one FLOP and others as two: both numbers are printed.
"""

import argparse

from kapao_mm.utils.cli import exit_on_input_error, input_shape


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--input-size',
        type=input_shape,
        help="px, as 1280 for a square, or 896x1280 (h x w) [the config's, a square]",
    )
    return parser.parse_args()


def main() -> None:
    """Prints a table of parameters and multiply-adds."""
    args = parse_args()
    from mmpose.registry import MODELS

    from kapao_mm import register_all_modules
    from kapao_mm.analysis.flops import count_flops
    from kapao_mm.analysis.report import print_table
    from kapao_mm.utils.config import load_config

    register_all_modules()
    cfg = load_config(args.config)
    height, width = args.input_size or (cfg.input_size, cfg.input_size)
    counts = count_flops(MODELS.build(cfg.model), (height, width))
    print(f'{args.config}: one image of {height} x {width} px')
    print_table(
        ('', 'parameters', 'G multiply-adds', 'GFLOPs (two each)'),
        (
            (part, f'{parameters / 1e6:.3f} M', f'{adds / 1e9:.3f}', f'{2 * adds / 1e9:.3f}')
            for part, (parameters, adds) in counts.items()
        ),
    )


if __name__ == '__main__':
    with exit_on_input_error():
        main()
