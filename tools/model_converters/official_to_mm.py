# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts a released KAPAO or YOLOv5-P6 checkpoint to MMEngine's format.

A KAPAO model is converted completely. Of a YOLOv5-P6 detector, only the backbone and neck are
converted, as a start for training. No code in the file is executed.
"""

import argparse
import hashlib
import shlex
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='IN', type=Path, help='released checkpoint (.pt)')
    parser.add_argument('out', metavar='OUT', type=Path, help='where the converted one goes (.pth)')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
import torch
from mmengine.config import Config
from mmpose.registry import MODELS
from torch import Tensor, nn

from kapao_mm import __version__, register_all_modules
from kapao_mm.converters.release import Release, read_release
from kapao_mm.datasets import read_metainfo
from kapao_mm.engine import AtomicBackend, check_output, checkpoint_bytes

REPO = Path(__file__).resolve().parents[2]
MODEL_CONFIGS = 'configs/_base_/models'
DATASETS = {17: 'coco', 14: 'crowdpose', 0: 'coco'}  # config name by K; 0 is a detector


def multiples(release: Release) -> tuple[float, float]:
    """Returns the width and depth multiples of a release (docs/method.md, Network)."""
    return release.widths[-1] / 1024, round(release.depths[1] / 9, 2)


def find_config(release: Release) -> tuple[str, dict[str, Any]]:
    """Returns the name of a config in ``_base_/models`` for a release, and the keys to change."""
    widths, depths = release.widths, release.depths
    paths = sorted((REPO / MODEL_CONFIGS).glob('kapao_*.py'))
    models = {path.stem: Config.fromfile(path).model for path in paths}
    for name, model in models.items():
        if (model.backbone.widen_factor, model.backbone.deepen_factor) == multiples(release):
            return name, anchor_options(release, model)
    options = {
        'model.backbone.widen_factor': 1,
        'model.backbone.deepen_factor': 1,
        # For each stage: width in and out, blocks, shortcut, SPP. Widths are given because
        # multiples of the base widths may have been rounded. The typo is MMDetection's.
        'model.backbone.arch_ovewrite': [
            [widths[i], widths[i + 1], depths[i], i < 4, i == 4] for i in range(5)
        ],
        'model.neck.in_channels': widths[2:],
        'model.neck.num_csp_blocks': depths[5],
        'model.head.in_channels': widths[2:],
    }
    return 'kapao_l', options | anchor_options(release, models['kapao_l'])


def anchor_options(release: Release, model_cfg: Config) -> dict[str, Any]:
    """Returns the option for a released KAPAO model's anchors if they differ from the config."""
    ours, theirs = np.array(model_cfg.head.anchors), np.array(release.anchors)
    known = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-3)  # float16 rounds
    return {} if known or not release.num_keypoints else {'model.head.anchors': release.anchors}


def build(release: Release, size: str, options: dict[str, Any]) -> nn.Module:
    """Builds a model with the size and K of a release, on the meta device."""
    register_all_modules()
    cfg = Config.fromfile(REPO / MODEL_CONFIGS / f'{size}.py')
    cfg.merge_from_dict(options)
    if release.num_keypoints:
        cfg.model.head.num_keypoints = release.num_keypoints
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    if not release.num_keypoints:
        del model.head
    return model


def fit(release: Release, model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights of a release in the precision of the model.

    Raises:
        InputError: If the weights do not match the model or are not finite.
    """
    expected = model.state_dict()
    found = release.weights
    if not release.num_keypoints:
        found = {name: value for name, value in found.items() if not name.startswith('head.')}
    shapes = [{(n, v.shape) for n, v in weights.items()} for weights in (expected, found)]
    wrong = sorted(name for name, _ in shapes[0] ^ shapes[1])
    if wrong:
        raise InputError(f'its weights are not those of its size, the first is {wrong[0]}')
    broken = [name for name, value in found.items() if not value.isfinite().all()]
    if broken:
        raise InputError(f'{len(broken)} of its weights are not finite, the first is {broken[0]}')
    with torch.no_grad():
        return {
            name: torch.empty(value.shape, dtype=value.dtype).copy_(found[name])
            for name, value in expected.items()
        }


def describe(release: Release, source: Path) -> dict[str, Any]:
    """Returns the meta of the converted checkpoint."""
    width, depth = multiples(release)
    metainfo = find_metainfo(release)
    known = dict(dataset_meta=metainfo) if metainfo else {}  # the inferencer reads it
    return known | dict(
        kind='KAPAO' if release.num_keypoints else 'YOLOv5-P6',
        num_keypoints=release.num_keypoints,
        classes=release.classes,
        anchors=release.anchors,
        widen_factor=width,
        deepen_factor=depth,
        source=source.name,
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        kapao_mm_version=__version__,
    )


def find_metainfo(release: Release) -> dict[str, Any] | None:
    """Returns the metainfo of the dataset with the same keypoints in the same order, or None."""
    for name in ('coco', 'crowdpose'):
        metainfo = read_metainfo(dict(from_file=f'configs/_base_/datasets/{name}.py'))
        if [*metainfo['keypoint_id2name'].values()] == release.classes[1:]:
            return metainfo
    return None


def report(release: Release, model: nn.Module) -> str:
    """Returns a text on the converted model and the parts left out."""
    width, depth = multiples(release)
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    size = f'width {width:.3g}, depth {depth:.3g}: {millions:.2f} M parameters'
    if release.num_keypoints:
        return f'KAPAO, {release.num_keypoints} keypoints, {size}'
    return (
        f'YOLOv5-P6, {size} of backbone and neck; left out: the head, for '
        f'{release.num_classes} classes'
    )


def next_command(release: Release, size: str, options: dict[str, Any], out: Path) -> str:
    """Returns the next command; it contains CONFIG if there is no suitable config."""
    config = f'configs/kapao/{size}_{DATASETS.get(release.num_keypoints)}.py'
    if not (REPO / config).is_file():
        config = 'CONFIG'
    words = ['kapao', 'test', config, str(out)]
    if not release.num_keypoints:
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
    release = read_release(args.source)
    size, options = find_config(release)
    model = build(release, size, options)
    try:
        checkpoint = dict(meta=describe(release, args.source), state_dict=fit(release, model))
    except InputError as error:
        raise InputError(f'{args.source} is no released KAPAO or YOLOv5-P6: {error}') from error
    AtomicBackend().put(checkpoint_bytes(checkpoint), args.out)
    print(report(release, model))
    if 'model.head.anchors' in options:
        print("Its anchors are not the config's; they are set with model.head.anchors")
    if release.num_keypoints and 'dataset_meta' not in checkpoint['meta']:
        names = ', '.join(release.classes[1:]) or 'unnamed'
        print(f'Its keypoints are of no dataset known here, or in another order: {names}')
    print(f'{args.out}: float32, {args.out.stat().st_size / 1e6:.1f} MB')
    print(f'Next: {next_command(release, size, options, args.out)}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
