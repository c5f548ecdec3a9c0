# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Trains a model: tools/train.py CONFIG."""

import argparse

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_run_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line, which has the flags of MMPose's tools/train.py."""
    parser = argparse.ArgumentParser(description='Train a KAPAO model')
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint; without a value, from the latest in the work directory, '
        'if there is one',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='overwrite the checkpoints of another run in the work directory',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train in float16, as the published recipe does; needs a GPU',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not validate while training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / auto_scale_lr.base_batch_size',
    )
    add_run_options(parser, example='train_dataloader.batch_size=8')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmpose.registry import MODELS, RUNNERS

from kapao_mm.engine import (
    check_checkpoint,
    check_training_start,
    checkpoint_to_resume,
    latest_checkpoint,
    require_no_checkpoints,
)
from kapao_mm.utils.config import apply_run_options, load_config
from kapao_mm.utils.dist import leave_processes


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the command-line flags into the config."""
    apply_run_options(cfg, args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if cfg.get('default_hooks', {}).get('checkpoint', {}) is None:
        raise InputError(
            'default_hooks.checkpoint is None, so the run would keep no weights; remove it'
        )
    if args.amp:
        if not torch.cuda.is_available():
            raise InputError('--amp needs a GPU, and torch sees none; leave the flag out')
        if cfg.optim_wrapper.type == 'KAPAOOptimWrapper':
            cfg.optim_wrapper.precision = 'float16'
        else:
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    apply_start(cfg, args)
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr'):
            raise InputError(
                f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}; leave it '
                'out (the published recipe accumulates gradients to its batch size instead)'
            )
        cfg.auto_scale_lr.enable = True


def apply_start(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the start of the run into the config: a checkpoint to resume, or a new run.

    Raises:
        InputError: If the checkpoint cannot be resumed, or a new run would overwrite another one.
    """
    resume = args.resume or (cfg.get('resume') and (cfg.get('load_from') or 'auto'))
    checkpoint = checkpoint_to_resume(cfg.work_dir, resume) if resume else None
    cfg.resume = checkpoint is not None
    if checkpoint:
        cfg.load_from = checkpoint
    elif not args.overwrite:
        require_no_checkpoints(cfg.work_dir)
    hook = cfg.default_hooks.get('checkpoint')
    if args.overwrite and hook and hook.type == 'SafeCheckpointHook':  # MMEngine's always does
        hook.overwrite = True


def main() -> None:
    """Trains the model, and logs the next command."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)
    runner = RUNNERS.build(cfg)
    if cfg.get('load_from'):
        check = check_checkpoint if cfg.resume else check_training_start
        with torch.device('meta'):
            check(cfg.load_from, MODELS.build(cfg.model))
    runner.train()
    if is_main_process():
        checkpoint = latest_checkpoint(cfg.work_dir) or 'CHECKPOINT'
        runner.logger.info(f'Next: kapao test {args.config} {checkpoint}')
    leave_processes()


if __name__ == '__main__':
    with exit_on_input_error():
        main()
