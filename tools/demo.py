# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts poses in images: tools/demo.py IMAGE... --config CONFIG --checkpoint CHECKPOINT."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, add_image_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Predict poses in images, and write a picture and a JSON file for each'
    )
    add_image_options(parser, 'outputs/demo')
    parser.add_argument('--config', required=True, help='config file')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
    parser.add_argument('--device', help='cpu, cuda:0 ... [a GPU if there is one]')
    parser.add_argument('--amp', action='store_true', help='half precision; bfloat16 on a CPU')
    parser.add_argument(
        '--score-thr',
        type=float,
        help="minimum score of a pose [the config's model.test_cfg.demo.pose_score_thr]",
    )
    add_config_options(parser, 'input_size=640 model.test_cfg.demo.keypoint_score_thr=0.3')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import mmcv
import numpy as np
import torch

from kapao_mm.apis import KAPAOInferencer
from kapao_mm.utils.config import load_config
from kapao_mm.utils.image_files import Predictor, predict_files


def build_inferencer(args: argparse.Namespace) -> KAPAOInferencer:
    """Builds the inferencer for the command line.

    Raises:
        InputError: If a flag has an invalid value.
    """
    options = dict(args.cfg_options)
    if args.score_thr is not None:
        if not 0 <= args.score_thr <= 1:
            raise InputError(f'--score-thr {args.score_thr} is not between 0 and 1')
        options['model.test_cfg.demo.pose_score_thr'] = args.score_thr
    if args.device:
        try:
            torch.empty(1, device=args.device)
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f'--device {args.device} cannot be used: {reason}') from error
    cfg = load_config(args.config, options)
    inferencer = KAPAOInferencer(cfg, args.checkpoint, amp=args.amp, device=args.device)
    inferencer.visualizer.draw_objects = args.objects
    return inferencer


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Returns a function that predicts an image file and draws the result."""
    inferencer = build_inferencer(args)

    def predict(image: Path) -> tuple[dict[str, Any], np.ndarray]:
        result = next(inferencer([str(image)], return_vis=True, draw_bbox=True))
        return result['predictions'][0], mmcv.rgb2bgr(result['visualization'][0])

    return predict


def main() -> None:
    """Predicts all images; the exit code is 1 if one fails."""
    args = parse_args()
    if not predict_files(args.images, args.out_dir, partial(load_predictor, args)):
        sys.exit(1)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
