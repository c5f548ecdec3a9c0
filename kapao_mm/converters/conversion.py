# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Converts released checkpoints to MMEngine's format: finds the config, and checks the weights."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.models.backbones import CSPDarknet
from mmengine.config import Config
from mmpose.registry import MODELS
from torch import Tensor, nn

from kapao_mm import __version__
from kapao_mm.datasets import read_metainfo
from kapao_mm.engine.checkpoint import PARTIAL
from kapao_mm.engine.model_family import pickled_family
from kapao_mm.engine.weight_file import read_weight_file
from kapao_mm.engine.weights_only import ALLOWED, unknown_globals
from kapao_mm.errors import InputError
from kapao_mm.utils.config import letterbox_settings
from kapao_mm.utils.project_files import find_config, project_dir

from .detector_checkpoint import take_detector
from .released_checkpoint import UNKNOWN, ReleasedCheckpoint, read_released_checkpoint

MODEL_CONFIGS = 'configs/_base_/models'


def read_source(path: Path) -> ReleasedCheckpoint:
    """Reads a released checkpoint, or a state dict of another detector with the same layers.

    No code in the file is run.

    Raises:
        InputError: If the file cannot be read safely or holds another kind of model.
    """
    names = {''}
    with suppress(Exception):  # the reader below gives the better message
        names = unknown_globals(path)
    if names <= ALLOWED.keys() and (weights := _find_state_dict(read_weight_file(path))):
        return _take_detector(path, weights)
    if family := pickled_family(names):
        raise InputError(f'{path} is {UNKNOWN}: it is {family}, whose layers do not fit')
    return read_released_checkpoint(path)


def find_model_config(released: ReleasedCheckpoint) -> tuple[str, dict[str, Any]]:
    """Returns the name of a config in ``_base_/models``, and the options that adapt it.

    Args:
        released: Content of a checkpoint.

    Returns:
        Name of the config of the same size, else of the same widths, else ``kapao_l``, with options
        for everything that differs from it.
    """
    paths = sorted((project_dir() / MODEL_CONFIGS).glob('kapao_*.py'))
    models = {path.stem: Config.fromfile(path).model for path in paths}
    sizes = {name: _configured_sizes(model) for name, model in models.items()}
    found = (released.widths, released.depths)
    same_widths = [name for name, size in sizes.items() if size[0] == released.widths]
    name = next((n for n in same_widths if sizes[n] == found), [*same_widths, 'kapao_l'][0])
    options = _size_options(released, *sizes[name])
    options |= _pooling_options(released, models[name])
    return name, options | _anchor_options(released, models[name])


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
    model.cfg = cfg  # as MMPose's init_model sets it
    if not released.num_keypoints:
        del model.head
    return model


def make_checkpoint(released: ReleasedCheckpoint, model: nn.Module, source: Path) -> dict[str, Any]:
    """Returns a checkpoint in MMEngine's format, with the config for prediction inside.

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
    missing = [name for name in model.state_dict() if name not in weights]
    partial = {PARTIAL: True} if missing else {}
    meta = _make_meta(released, source) | partial
    if 'dataset_meta' in meta:
        meta['cfg'] = _stored_config(model.cfg)
    return dict(meta=meta, state_dict=weights)


def _stored_config(cfg: Config) -> str:
    """Returns the text of a config for prediction, as MMEngine stores configs in checkpoints."""
    input_size, square = letterbox_settings(Config.fromfile(find_config('kapao_l_coco')))
    pipeline = [dict(type='Letterbox', input_size=input_size, square=square)]
    loader = dict(dataset=dict(pipeline=pipeline))
    return Config(dict(model=cfg.model, test_dataloader=loader)).pretty_text


def _configured_sizes(model_cfg: Config) -> tuple[list[int], list[int]]:
    """Returns widths and depths of a config, in the order of :class:`ReleasedCheckpoint`."""
    stages = CSPDarknet.arch_settings['P6']
    backbone = model_cfg.backbone
    widths = [int(w * backbone.widen_factor) for w in (stages[0][0], *(s[1] for s in stages))]
    depths = [max(round(stage[2] * backbone.deepen_factor), 1) for stage in stages]
    return widths, [*depths, model_cfg.neck.num_csp_blocks]


def _size_options(
    released: ReleasedCheckpoint, config_widths: list[int], config_depths: list[int]
) -> dict[str, Any]:
    widths, depths = released.widths, released.depths
    options = {}
    if (widths, depths[:5]) != (config_widths, config_depths[:5]):
        options = {
            'model.backbone.widen_factor': 1,
            'model.backbone.deepen_factor': 1,
            # For each stage: width in and out, blocks, shortcut, SPP. Widths are given because
            # multiples of the base widths may have been rounded. The typo is MMDetection's.
            'model.backbone.arch_ovewrite': [
                [widths[i], widths[i + 1], depths[i], i < 4, i == 4] for i in range(5)
            ],
        }
    if widths != config_widths:
        options |= {'model.neck.in_channels': widths[2:], 'model.head.in_channels': widths[2:]}
    if depths[5] != config_depths[5]:
        options['model.neck.num_csp_blocks'] = depths[5]
    return options


def _pooling_options(released: ReleasedCheckpoint, model_cfg: Config) -> dict[str, Any]:
    options = {}
    if released.pools and released.pools != [*model_cfg.backbone.spp_kernal_sizes]:
        options['model.backbone.spp_kernal_sizes'] = released.pools
    if released.spp_last:
        options |= {'model.backbone.type': 'KAPAOCSPDarknet', 'model.backbone.spp_last': True}
    return options


def _anchor_options(released: ReleasedCheckpoint, model_cfg: Config) -> dict[str, Any]:
    configured, anchors = np.array(model_cfg.head.anchors), np.array(released.anchors)
    equal = configured.shape == anchors.shape and np.allclose(configured, anchors, rtol=1e-3)
    # The tolerance is for anchors in float16.
    return {} if equal or not released.num_keypoints else {'model.head.anchors': released.anchors}


def _convert_weights(released: ReleasedCheckpoint, model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights in the precision of the model."""
    expected = model.state_dict()
    found = released.weights
    shapes = [{(n, v.shape) for n, v in weights.items()} for weights in (expected, found)]
    wrong = shapes[1] - shapes[0] if released.partial else shapes[0] ^ shapes[1]
    if wrong:
        raise InputError(f'its weights do not match its size, the first is {min(wrong)[0]}')
    broken = [name for name, value in found.items() if not value.isfinite().all()]
    if broken:
        raise InputError(f'{len(broken)} of its weights are not finite, the first is {broken[0]}')
    with torch.no_grad():
        return {
            name: torch.empty(value.shape, dtype=value.dtype).copy_(found[name])
            for name, value in expected.items()
            if name in found
        }


def _make_meta(released: ReleasedCheckpoint, source: Path) -> dict[str, Any]:
    metainfo = _find_metainfo(released)
    known = dict(dataset_meta=metainfo) if metainfo else {}  # the inferencer reads it
    return known | dict(
        kind=released.kind,
        num_keypoints=released.num_keypoints,
        classes=released.classes,
        anchors=released.anchors,
        widen_factor=released.multiples[0],
        deepen_factor=released.multiples[1],
        source=source.name,
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        kapao_mm_version=__version__,
    )


def _find_state_dict(content: Any) -> dict[str, Tensor] | None:
    """Returns the state dict of another package's checkpoint, or None."""
    if isinstance(content, dict):
        content = content.get('state_dict', content.get('model', content))
    named = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    return dict(content) if named else None


def _take_detector(path: Path, weights: dict[str, Tensor]) -> ReleasedCheckpoint:
    try:
        return take_detector(weights)
    except Exception as error:  # the weights may have any names and shapes
        reason = error if isinstance(error, InputError) else f'unexpected content ({error!r})'
        raise InputError(f'{path} is {UNKNOWN}: {reason}') from error


def _find_metainfo(released: ReleasedCheckpoint) -> dict[str, Any] | None:
    """Returns the metainfo of the dataset with the same keypoints in the same order, or None."""
    names = [_spell(name) for name in released.classes[1:]]
    for dataset in ('coco', 'crowdpose'):
        metainfo = read_metainfo(dict(from_file=f'configs/_base_/datasets/{dataset}.py'))
        if [_spell(name) for name in metainfo['keypoint_id2name'].values()] == names:
            return metainfo
    return None


def _spell(name: str) -> str:
    """Returns a keypoint's name in one spelling; CrowdPose calls the top of the head ``head``."""
    plain = re.sub(r'[^a-z0-9]+', '_', name.lower())
    return 'head' if plain == 'top_head' else plain
