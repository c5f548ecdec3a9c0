# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Counts the parameters of a config's model and its multiply-adds for one image.

Only convolutions are counted, because batch norm is folded into them for inference. Some papers
count a multiply-add as one FLOP and others as two: both numbers are printed.
"""

import argparse
from collections import OrderedDict

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


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmpose.registry import MODELS
from torch import nn

from kapao_mm import register_all_modules
from kapao_mm.models.kapao import KAPAO
from kapao_mm.utils.config import load_config


def count(model: KAPAO, input_hw: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Counts parameters and multiply-adds for one image, for each part of the network and in total.

    Args:
        model: Model to measure.
        input_hw: Size (h, w) of the network input, px.

    Returns:
        Parameters and multiply-adds by name of the part.
    """
    parts = dict(backbone=model.backbone, neck=model.neck, head=model.head.head_module)
    network = nn.Sequential(OrderedDict(parts)).eval()
    parameters = parameter_count(network)
    analyzer = FlopAnalyzer(network, torch.zeros(1, 3, *input_hw))
    counted = analyzer.unsupported_ops_warnings(False).by_module_and_operator()
    return {name or 'total': (parameters[name], counted[name]['conv']) for name in (*parts, '')}


def main() -> None:
    """Prints a table of parameters and multiply-adds."""
    args = parse_args()
    register_all_modules()
    cfg = load_config(args.config)
    height, width = args.input_size or (cfg.input_size, cfg.input_size)
    counts = count(MODELS.build(cfg.model), (height, width))
    print(f'{args.config}: one image of {height} x {width} px\n')
    print(f'{"":<10}{"parameters":>14}{"G multiply-adds":>18}{"GFLOPs (two each)":>20}')
    for part, (parameters, multiply_adds) in counts.items():
        giga = multiply_adds / 1e9
        print(f'{part:<10}{parameters / 1e6:>12.3f} M{giga:>18.3f}{2 * giga:>20.3f}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
