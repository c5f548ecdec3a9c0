# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Takes the weights of other detectors with the same layers as far as they fit KAPAO.

These are MMDetection's YOLOX and MMYOLO's YOLOv5. A model with three levels (P5) shares the stem,
three stages and the two finest levels of the neck with KAPAO, which has four levels (P6).
"""

from collections import Counter
from math import ceil

from torch import Tensor

from kapao_mm.engine.model_family import CONVERTIBLE, KAPAO, YOLOX, model_family
from kapao_mm.errors import InputError

from .released_checkpoint import ReleasedCheckpoint, adapt_stem, count_blocks, find_sizes
from .stem import rgb_focus_from_bgr

STEM = 'backbone.stem.conv.conv.weight'
# Parts of a model with three levels that fit KAPAO, and their names there.
FITTING_PARTS = {
    **{f'backbone.{part}': f'backbone.{part}' for part in ('stem', 'stage1', 'stage2', 'stage3')},
    'neck.reduce_layers.1': 'neck.reduce_layers.2',
    'neck.top_down_blocks.1': 'neck.top_down_blocks.2',
    'neck.downsamples.0': 'neck.downsamples.0',
    'neck.downsamples.1': 'neck.downsamples.1',
    'neck.bottom_up_blocks.0': 'neck.bottom_up_blocks.0',
}


def take_detector(weights: dict[str, Tensor]) -> ReleasedCheckpoint:
    """Takes what fits KAPAO from the state dict of another detector.

    Args:
        weights: State dict of MMDetection's YOLOX or MMYOLO's YOLOv5.

    Raises:
        InputError: If the weights belong to another kind of model.
    """
    family = model_family(weights)
    if family == KAPAO:
        raise InputError('it already is in the format of MMEngine')
    if family not in CONVERTIBLE:
        raise InputError(f'it is {family or "no known model"}, whose layers do not fit')
    if any('.depthwise_conv.' in name for name in weights):
        raise InputError(f'it is {family} with depthwise convolutions, which KAPAO does not have')
    levels = 4 if 'backbone.stage5.0.conv.weight' in weights else 3
    parts = _parts(family, levels)
    found, left_out = {}, Counter()
    for name, value in weights.items():
        if new_name := _rename(name, parts):
            found[new_name] = value
        else:
            left_out[_describe_part(name)] += value.numel()
    adapted = adapt_stem(found)
    if family == YOLOX:
        found[STEM] = rgb_focus_from_bgr(found[STEM])
        adapted = {STEM: 'stem for RGB from 0 to 1 instead of BGR from 0 to 255'}
    widths, depths = find_sizes(found) if levels == 4 else _sizes_with_three_levels(weights, found)
    return ReleasedCheckpoint(
        kind=f'{"YOLOX" if family == YOLOX else "YOLOv5"}-P{levels + 2}',
        weights=found,
        widths=widths,
        depths=depths,
        num_keypoints=0,
        num_classes=0,
        classes=[],
        anchors=[],
        pools=[5, 9, 13] if levels == 4 else [],
        spp_last='backbone.stage5.1.main_conv.conv.weight' in found,
        partial=True,
        adapted=adapted,
        left_out=dict(left_out),
    )


def _parts(family: str, levels: int) -> dict[str, str]:
    """Returns the parts of a model that fit KAPAO, and their names there."""
    stages = [f'backbone.stage{i + 1}' for i in range(levels + 1)]
    neck = _yolox_neck(levels) if family == YOLOX else _mmyolo_neck(levels)
    parts = {name: name for name in ('backbone.stem', *stages)} | neck
    if levels == 4:
        return parts
    return {old: FITTING_PARTS[new] for old, new in parts.items() if new in FITTING_PARTS}


def _yolox_neck(levels: int) -> dict[str, str]:
    kinds = ('reduce_layers', 'top_down_blocks', 'downsamples', 'bottom_up_blocks')
    return {f'neck.{kind}.{i}': f'neck.{kind}.{i}' for kind in kinds for i in range(levels - 1)}


def _mmyolo_neck(levels: int) -> dict[str, str]:
    """Returns the parts of MMYOLO's neck, which joins CSP layers and the reductions after them."""
    last = levels - 2
    return {
        f'neck.reduce_layers.{levels - 1}': 'neck.reduce_layers.0',
        **{f'neck.top_down_layers.{i}.0': f'neck.top_down_blocks.{i}' for i in range(last)},
        **{f'neck.top_down_layers.{i}.1': f'neck.reduce_layers.{i + 1}' for i in range(last)},
        f'neck.top_down_layers.{last}': f'neck.top_down_blocks.{last}',
        **{f'neck.downsample_layers.{i}': f'neck.downsamples.{i}' for i in range(levels - 1)},
        **{f'neck.bottom_up_layers.{i}': f'neck.bottom_up_blocks.{i}' for i in range(levels - 1)},
    }


def _rename(name: str, parts: dict[str, str]) -> str | None:
    """Returns the name of a weight in KAPAO, or None if its part does not fit."""
    for old, new in parts.items():
        if name.startswith(f'{old}.'):
            return new + name.removeprefix(old)
    return None


def _describe_part(name: str) -> str:
    module, part, *_ = name.split('.')
    return 'head' if module == 'bbox_head' else f'{module}.{part}'


def _sizes_with_three_levels(
    weights: dict[str, Tensor], found: dict[str, Tensor]
) -> tuple[list[int], list[int]]:
    """Returns widths and depths of the KAPAO model of the same multiples.

    Args:
        weights: State dict of the model with three levels.
        found: Weights of it that fit KAPAO, by their names there.
    """
    widths = [
        len(found[STEM]),
        *(len(found[f'backbone.stage{i}.0.conv.weight']) for i in (1, 2, 3)),
    ]
    last = len(weights['backbone.stage4.0.conv.weight'])
    depths = [count_blocks(found, f'backbone.stage{i}') for i in (1, 2, 3)]
    neck = count_blocks(found, 'neck.top_down_blocks.2')
    return [*widths, ceil(last * 0.75 / 8) * 8, last], [*depths, depths[0], depths[0], neck]
