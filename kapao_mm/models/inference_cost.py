# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What a prediction costs: folded batch norm, memory format, half precision, compilation."""

from types import MethodType
from typing import TYPE_CHECKING

import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import Tensor

from kapao_mm.errors import InputError
from kapao_mm.utils.flags import PRECISIONS

if TYPE_CHECKING:
    from .kapao import KAPAO


def half_precision(device: str | torch.device) -> str:
    """What ``--amp`` means on a device: float16 on a GPU, bfloat16 on a CPU."""
    return 'bfloat16' if torch.device(device).type == 'cpu' else 'float16'


def prepare_for_inference(
    model: 'KAPAO', precision: str = 'float32', compile_network: bool = False
) -> None:
    """Makes a model predict faster; it can no longer be trained.

    Batch norm is folded into the convolutions, weights lie channels last, backbone and neck compute
    in ``precision``. The head stays float32: anchors of up to 925 px scale what it rounds.

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
    for module in model.modules():
        # Elsewhere a norm that is listed after a convolution need not follow it.
        if isinstance(module, ConvModule) and module.order[:2] == ('conv', 'norm'):
            fuse_conv_bn(module)
    model.requires_grad_(False).to(memory_format=torch.channels_last)
    for part in (model.backbone, model.neck):
        part.to(getattr(torch, precision))
        if compile_network:
            part.forward = torch.compile(part.forward)
    model.extract_feat = MethodType(_extract_feat, model)


def _extract_feat(model: 'KAPAO', inputs: Tensor) -> list[Tensor]:
    """The neck's levels in float32."""
    dtype = next(model.backbone.parameters()).dtype
    inputs = inputs.to(dtype, memory_format=torch.channels_last)
    return [level.float() for level in model.neck(model.backbone(inputs))]
