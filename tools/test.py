# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tests a model: tools/test.py CONFIG CHECKPOINT."""

import argparse
from pathlib import Path

import mmengine
from mmengine.config import Config
from mmengine.runner import Runner

from kapao_mm.configuration import add_run_options, apply_run_options, load_config
from kapao_mm.engine import check_checkpoint
from kapao_mm.errors import InputError, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """The command line, with the flags of MMPose's tools/test.py."""
    parser = argparse.ArgumentParser(description='Test a KAPAO model')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='write the metrics to this file (.json, .yaml)')
    parser.add_argument('--dump', help='write the predictions to this file (.pkl)')
    add_run_options(parser, example='model.test_cfg.fusion_distance=0')
    return parser.parse_args()


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the flags into the config."""
    apply_run_options(cfg, args)
    cfg.load_from = args.checkpoint
    if args.dump:
        if Path(args.dump).suffix not in ('.pkl', '.pickle'):
            raise InputError(f'--dump writes a pickle; {args.dump} must end in .pkl')
        metrics = cfg.test_evaluator
        metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        cfg.test_evaluator = [*metrics, dict(type='DumpResults', out_file_path=args.dump)]


def main() -> None:
    """Tests, and says where things are."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)
    runner = Runner.from_cfg(cfg)
    check_checkpoint(args.checkpoint, runner.model)
    metrics = runner.test()
    if args.out:
        mmengine.dump(metrics, args.out)
    written = dict(metrics=args.out, predictions=args.dump, pictures=args.show_dir)
    for what, where in written.items():
        if where:
            runner.logger.info(f'{what}: {where}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
