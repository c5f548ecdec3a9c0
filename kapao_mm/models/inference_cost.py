# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What a prediction costs: folded batch norm, memory format, half precision, compilation."""

from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING

import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import Tensor, nn

from kapao_mm.errors import InputError

if TYPE_CHECKING:
    from .kapao import KAPAO

EXACT_CONVOLUTIONS = 2  # first ones, that compute in float32 always
PRECISIONS = ('float32', 'bfloat16', 'float16')


def half_precision(device: str | torch.device) -> str:
    """What ``--amp`` means on a device: float16 on a GPU, bfloat16 on a CPU."""
    return 'bfloat16' if torch.device(device).type == 'cpu' else 'float16'


def prepare_for_inference(
    model: 'KAPAO', precision: str = 'float32', compile_network: bool = False
) -> None:
    """Makes a model predict faster; it can no longer be trained.

    Batch norm is folded into the convolutions, weights lie channels last, backbone and neck compute
    in ``precision``. Not so the first convolutions, which see the picture's 256 levels (bfloat16
    tells half as many apart), and the head, whose outputs are scaled by anchors of up to 925 px.

    Args:
        model: with its final weights; changed in place.
        precision: of :data:`PRECISIONS`.
        compile_network: compile backbone and neck (torch.compile). The first image takes a minute,
            and so does the first of another shape; further shapes need no compiling.

    Raises:
        InputError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise InputError(f'precision {precision!r} is none of {", ".join(PRECISIONS)}')
    model.eval()
    for module in _convolutions(model):
        if module.order[:2] == ('conv', 'norm'):
            fuse_conv_bn(module)  # of more, it would fold norms that follow in the list only
    model.requires_grad_(False).to(memory_format=torch.channels_last)
    dtype = getattr(torch, precision)
    for part in (model.backbone, model.neck):
        part.to(dtype)
    for module in list(_convolutions(model.backbone))[:EXACT_CONVOLUTIONS]:
        module.float()
        module.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
        module.register_forward_hook(lambda _, inputs, output: output.to(dtype))
    if compile_network:
        for part in (model.backbone, model.neck):
            part.forward = torch.compile(part.forward)
    model.extract_feat = MethodType(_extract_feat, model)


def _convolutions(model: nn.Module) -> Iterator[ConvModule]:
    """The convolutions of a network, each with its norm and activation."""
    return (module for module in model.modules() if isinstance(module, ConvModule))


def _extract_feat(model: 'KAPAO', inputs: Tensor) -> list[Tensor]:
    """The neck's levels in float32."""
    dtype = next(model.backbone.parameters()).dtype
    inputs = inputs.to(dtype, memory_format=torch.channels_last)
    return [level.float() for level in model.neck(model.backbone(inputs))]
