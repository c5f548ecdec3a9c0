# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Tests a model: tools/test.py CONFIG CHECKPOINT."""

import argparse

from kapao_mm.errors import InputError
from kapao_mm.utils.atomic_file import atomic_path, check_writable
from kapao_mm.utils.cli import add_run_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line, which has the flags of MMPose's tools/test.py."""
    parser = argparse.ArgumentParser(description='Test a KAPAO model')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    output = parser.add_mutually_exclusive_group()
    output.add_argument('--out', help='write the metrics to this file (.json, .yaml)')
    output.add_argument(
        '--format-only',
        metavar='PREFIX',
        help='write COCO results to PREFIX.keypoints.json and evaluate nothing, as for test-dev',
    )
    parser.add_argument('--dump', help='write the predictions to this file (.pkl)')
    parser.add_argument(
        '--tta', action='store_true', help="test-time augmentation, the config's tta_model"
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='half precision (bfloat16 on a CPU), batch norm folded, channels last',
    )
    parser.add_argument(
        '--compile', action='store_true', help='torch.compile the network, batch norm folded'
    )
    add_run_options(parser, example='model.test_cfg.fusion_distance=0')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import mmengine
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmpose.registry import MODELS

from kapao_mm import register_all_modules
from kapao_mm.engine import check_checkpoint
from kapao_mm.evaluation.results import RESULT_SUFFIX
from kapao_mm.models.utils.inference import half_precision
from kapao_mm.utils.config import apply_run_options, load_config
from kapao_mm.utils.dist import leave_processes


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Writes the command-line flags into the config."""
    apply_run_options(cfg, args)
    cfg.load_from = args.checkpoint
    if args.out:
        check_writable(args.out, ('.json', '.yaml', '.yml'))
    if args.amp or args.compile:
        fast = dict(
            type='FastInferenceHook',
            precision=half_precision(get_device()) if args.amp else 'float32',
            compile_network=args.compile,
        )
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), fast]
    metrics = cfg.test_evaluator
    metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
    if args.format_only:
        if len(metrics) != 1 or metrics[0].type != 'KAPAOMetric':
            raise InputError('--format-only needs one test_evaluator, a KAPAOMetric')
        check_writable(f'{args.format_only}{RESULT_SUFFIX}')
        metrics[0].update(format_only=True, outfile_prefix=args.format_only)
    if args.dump:
        check_writable(args.dump, ('.pkl', '.pickle'))
        # 'gpu' collects through the process group, so that machines need no shared folder.
        dump = dict(type='DumpPredictions', out_file_path=args.dump, collect_device='gpu')
        cfg.test_evaluator = [*metrics, dump]


def apply_tta(cfg: Config) -> None:
    """Wraps the model in ``tta_model``, and makes the network inputs of the test square.

    MMDetection needs an additional pipeline in each config. Here the test pipeline is used with a
    square Letterbox, so that changes of it also apply to test-time augmentation.

    Raises:
        InputError: If the config has no ``tta_model``.
    """
    if 'tta_model' not in cfg:
        raise InputError('--tta needs tta_model in the config, as configs/_base_/models/kapao_l.py')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:  # unwraps dataset wrappers
        dataset = dataset.dataset
    for transform in dataset.pipeline:
        if transform['type'] == 'Letterbox':
            transform['square'] = True


def main() -> None:
    """Tests the model, and logs where the results are."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    apply_args(cfg, args)
    register_all_modules()
    with torch.device('meta'):  # the model alone, without the wrapper of --tta
        check_checkpoint(args.checkpoint, MODELS.build(cfg.model))
    if args.tta:
        apply_tta(cfg)
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    if args.out and is_main_process():
        with atomic_path(args.out) as temporary:
            mmengine.dump(metrics, temporary)
    written = dict(metrics=args.out, predictions=args.dump, pictures=args.show_dir)
    for what, where in written.items():
        if where:
            runner.logger.info(f'{what}: {where}')
    leave_processes()


if __name__ == '__main__':
    with exit_on_input_error():
        main()
