# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tests a model: tools/test.py CONFIG CHECKPOINT."""

import argparse
import os
from pathlib import Path

import mmengine
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from kapao_mm.configuration import load_config
from kapao_mm.engine import check_checkpoint
from kapao_mm.errors import InputError, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """The command line, with the flags of MMPose's tools/test.py."""
    parser = argparse.ArgumentParser(description='Test a KAPAO model')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where logs go [work_dirs/CONFIG]')
    parser.add_argument('--out', help='write the metrics to this file (.json, .yaml)')
    parser.add_argument('--dump', help='write the predictions to this file (.pkl)')
    parser.add_argument('--show-dir', help='draw the predictions into this directory')
    parser.add_argument('--interval', type=int, default=1, help='draw every n-th image [1]')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='replace config values, as in: data_root=DIR input_size=640 '
        'model.test_cfg.fusion_distance=0',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torchrun')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the flags into the config."""
    cfg.launcher = args.launcher
    cfg.load_from = args.checkpoint
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    if args.show_dir:
        cfg.default_hooks.visualization.update(
            enable=True,
            out_dir=str(Path(args.show_dir).absolute()),  # MMPose puts others into the work_dir
            interval=args.interval,
        )
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
