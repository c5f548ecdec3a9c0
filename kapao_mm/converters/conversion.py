# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts released checkpoints to MMEngine's format: finds the config, and checks the weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmpose.registry import MODELS
from torch import Tensor, nn

from kapao_mm import __version__
from kapao_mm.datasets import read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.utils.project_files import project_dir

from .released_checkpoint import UNKNOWN, ReleasedCheckpoint

MODEL_CONFIGS = 'configs/_base_/models'


def find_model_config(released: ReleasedCheckpoint) -> tuple[str, dict[str, Any]]:
    """Returns the name of a config in ``_base_/models``, and the options that adapt it.

    Args:
        released: Content of a released checkpoint.

    Returns:
        Name of the config of the same size, or ``kapao_l`` with options for another size. An option
        sets the anchors of a KAPAO model if they differ from the config.
    """
    widths, depths = released.widths, released.depths
    paths = sorted((project_dir() / MODEL_CONFIGS).glob('kapao_*.py'))
    models = {path.stem: Config.fromfile(path).model for path in paths}
    for name, model in models.items():
        if (model.backbone.widen_factor, model.backbone.deepen_factor) == released.multiples:
            return name, _anchor_options(released, model)
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
    return 'kapao_l', options | _anchor_options(released, models['kapao_l'])


def build_model(released: ReleasedCheckpoint, name: str, options: dict[str, Any]) -> nn.Module:
    """Builds the model of a released checkpoint on the meta device; a detector has no head.

    Args:
        released: Content of a released checkpoint.
        name: Name of the config, see :func:`find_model_config`.
        options: Options that adapt the config.
    """
    cfg = Config.fromfile(project_dir() / MODEL_CONFIGS / f'{name}.py')
    cfg.merge_from_dict(options)
    if released.num_keypoints:
        cfg.model.head.num_keypoints = released.num_keypoints
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    if not released.num_keypoints:
        del model.head
    return model


def make_checkpoint(released: ReleasedCheckpoint, model: nn.Module, source: Path) -> dict[str, Any]:
    """Returns a checkpoint in MMEngine's format.

    Args:
        released: Content of a released checkpoint.
        model: Model that the weights must match, see :func:`build_model`.
        source: File of the released checkpoint.

    Raises:
        InputError: If the weights do not match the model or are not finite.
    """
    try:
        weights = _convert_weights(released, model)
    except InputError as error:
        raise InputError(f'{source} is {UNKNOWN}: {error}') from error
    return dict(meta=_make_meta(released, source), state_dict=weights)


def _anchor_options(released: ReleasedCheckpoint, model_cfg: Config) -> dict[str, Any]:
    configured, anchors = np.array(model_cfg.head.anchors), np.array(released.anchors)
    equal = configured.shape == anchors.shape and np.allclose(configured, anchors, rtol=1e-3)
    # The tolerance is for anchors in float16.
    return {} if equal or not released.num_keypoints else {'model.head.anchors': released.anchors}


def _convert_weights(released: ReleasedCheckpoint, model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights in the precision of the model."""
    expected = model.state_dict()
    found = released.weights
    if not released.num_keypoints:
        found = {name: value for name, value in found.items() if not name.startswith('head.')}
    shapes = [{(n, v.shape) for n, v in weights.items()} for weights in (expected, found)]
    wrong = sorted(name for name, _ in shapes[0] ^ shapes[1])
    if wrong:
        raise InputError(f'its weights do not match its size, the first is {wrong[0]}')
    broken = [name for name, value in found.items() if not value.isfinite().all()]
    if broken:
        raise InputError(f'{len(broken)} of its weights are not finite, the first is {broken[0]}')
    with torch.no_grad():
        return {
            name: torch.empty(value.shape, dtype=value.dtype).copy_(found[name])
            for name, value in expected.items()
        }


def _make_meta(released: ReleasedCheckpoint, source: Path) -> dict[str, Any]:
    metainfo = _find_metainfo(released)
    known = dict(dataset_meta=metainfo) if metainfo else {}  # the inferencer reads it
    return known | dict(
        kind='KAPAO' if released.num_keypoints else 'YOLOv5-P6',
        num_keypoints=released.num_keypoints,
        classes=released.classes,
        anchors=released.anchors,
        widen_factor=released.multiples[0],
        deepen_factor=released.multiples[1],
        source=source.name,
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        kapao_mm_version=__version__,
    )


def _find_metainfo(released: ReleasedCheckpoint) -> dict[str, Any] | None:
    """Returns the metainfo of the dataset with the same keypoints in the same order, or None."""
    for name in ('coco', 'crowdpose'):
        metainfo = read_metainfo(dict(from_file=f'configs/_base_/datasets/{name}.py'))
        if [*metainfo['keypoint_id2name'].values()] == released.classes[1:]:
            return metainfo
    return None
