# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts a checkpoint of KAPAO, YOLOv5-P6 or YOLOX to MMEngine's format.

A released KAPAO model is converted completely. Of a detector, only what fits backbone and neck is
converted, as a start for training: all of YOLOv5-P6 (any release, or MMYOLO's), a part of YOLOX
(MMDetection's). No code in the file is executed.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='IN', type=Path, help='checkpoint to convert (.pt, .pth)')
    parser.add_argument('out', metavar='OUT', type=Path, help='converted checkpoint (.pth)')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from torch import nn

from kapao_mm import register_all_modules
from kapao_mm.converters.conversion import (
    build_model,
    find_model_config,
    make_checkpoint,
    read_source,
)
from kapao_mm.converters.released_checkpoint import ReleasedCheckpoint
from kapao_mm.engine import AtomicBackend, check_output, checkpoint_bytes
from kapao_mm.utils.project_files import project_dir

DATASETS = {17: 'coco', 14: 'crowdpose', 0: 'coco'}  # config name by K; 0 is a detector


def summarize(released: ReleasedCheckpoint, model: nn.Module) -> str:
    """Returns a line on the converted model and the parts left out."""
    width, depth = released.multiples
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    missing = model.state_dict().keys() - released.weights.keys()
    part = 'a part of the ' if missing else ''
    size = f'width {width:.3g}, depth {depth:.3g}: {part}{millions:.2f} M parameters'
    if released.num_keypoints:
        return f'KAPAO, {released.num_keypoints} keypoints, {size}'
    classes = f', for {released.num_classes} classes' if released.num_classes else ''
    return f'{released.kind}, {size} of backbone and neck; left out: the head{classes}'


def count_numbers(released: ReleasedCheckpoint, model: nn.Module) -> list[str]:
    """Returns lines on the numbers that were taken, adapted and left out, and those missing."""
    sizes = {name: value.numel() for name, value in released.weights.items()}
    adapted = sum(sizes[name] for name in released.adapted)
    how = f' ({", ".join(released.adapted.values())})' if released.adapted else ''
    parts = ', '.join(f'{part} {count:,}' for part, count in released.left_out.items())
    lines = [
        f'Numbers taken: {sum(sizes.values()) - adapted:,}; adapted: {adapted:,}{how}; '
        f'left out: {sum(released.left_out.values()):,} ({parts})'
    ]
    missing = [v.numel() for name, v in model.state_dict().items() if name not in sizes]
    if missing:
        lines.append(f'{sum(missing):,} numbers of backbone and neck keep their initial values')
    return lines


def next_command(num_keypoints: int, size: str, options: dict[str, Any], out: Path) -> str:
    """Returns the next command; it contains CONFIG if there is no suitable config."""
    config = f'configs/kapao/{size}_{DATASETS.get(num_keypoints)}.py'
    if not (project_dir() / config).is_file():
        config = 'CONFIG'
    words = ['kapao', 'test', config, str(out)]
    if not num_keypoints:
        words = ['kapao', 'train', config]
        options = dict(load_from=out) | options
    if options:
        words.append('--cfg-options')
    words += [f'{key}={value}'.replace(', ', ',') for key, value in options.items()]
    return shlex.join(words)


def main() -> None:
    """Converts the checkpoint, and prints a description and the next command."""
    args = parse_args()
    check_output(args.out, args.source)
    register_all_modules()
    released = read_source(args.source)
    size, options = find_model_config(released)
    model = build_model(released, size, options)
    checkpoint = make_checkpoint(released, model, args.source)
    AtomicBackend().put(checkpoint_bytes(checkpoint), args.out)
    print(summarize(released, model), *count_numbers(released, model), sep='\n')
    if released.pools and 'model.backbone.spp_kernal_sizes' in options:
        has = 'is assumed to have' if released.partial else 'has'  # a state dict has no pools
        print(f'Its pyramid pooling {has} kernels {released.pools}; the command below sets them')
    if released.spp_last:
        print('Its pyramid pooling comes after the last CSP layer, as the command below sets')
    if 'model.head.anchors' in options:
        print('Its anchors differ from the config; the command below sets them')
    if released.num_keypoints and 'dataset_meta' not in checkpoint['meta']:
        names = ', '.join(released.classes[1:]) or 'unnamed'
        print(f'Its keypoints are those of no known dataset, or in another order: {names}')
    print(f'{args.out}: float32, {args.out.stat().st_size / 1e6:.1f} MB')
    print(f'Next: {next_command(released.num_keypoints, size, options, args.out)}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
