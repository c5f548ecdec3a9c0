# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Speeds up inference: batch norm folding, channels-last weights, half precision, compilation."""

from types import MethodType
from typing import TYPE_CHECKING

import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmdet.models.backbones.csp_darknet import Focus
from torch import Tensor, nn

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import PRECISIONS

from .fused_convolution import fuse_convolutions

if TYPE_CHECKING:
    from ..kapao import KAPAO


def half_precision(device: str | torch.device) -> str:
    """Returns the precision that ``--amp`` stands for: float16 on a GPU, bfloat16 on a CPU."""
    return 'bfloat16' if torch.device(device).type == 'cpu' else 'float16'


def prepare_for_inference(
    model: 'KAPAO', precision: str = 'float32', compile_network: bool = False
) -> None:
    """Makes a model predict faster; it cannot be trained afterwards.

    Use it to predict many images, and before an export. Batch norm is folded, the stem is one
    strided convolution, the weights become channels-last, SiLU is computed with its convolution on
    a CPU, and backbone and neck compute in ``precision``. The head stays in float32, because
    decoding multiplies its rounding errors by anchors of up to 925 px.

    Args:
        model: Model with its final weights, changed in place.
        precision: One of :data:`PRECISIONS`. Half precision pays off on GPUs, and on CPUs that
            compute in bfloat16.
        compile_network: Whether to compile backbone and neck (torch.compile), which pays off for
            thousands of images. It takes a minute at the first image, and again at the first image
            of a second shape. Further shapes are not compiled again.

    Raises:
        InputError: If the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise InputError(f'precision {precision!r} is none of {", ".join(PRECISIONS)}')
    fold_batch_norm(model.eval())
    stride_stem(model)
    model.requires_grad_(False).to(memory_format=torch.channels_last)
    for part in (model.backbone, model.neck):
        part.to(getattr(torch, precision))
        if compile_network:
            part.forward = torch.compile(part.forward)
    if not compile_network:
        fuse_convolutions(model)
    model.extract_feat = MethodType(_extract_feat, model)


def fold_batch_norm(model: nn.Module) -> None:
    """Folds the batch norm of a model in evaluation mode into the convolutions before it."""
    for module in model.modules():
        # In other modules a norm that is listed after a convolution may not be applied after it.
        if isinstance(module, ConvModule) and module.order[:2] == ('conv', 'norm'):
            fuse_conv_bn(module)


def stride_stem(model: 'KAPAO') -> None:
    """Makes the stem of a model one strided convolution, which computes the same.

    The stem (Focus) moves each 2x2 px into channels, and convolves them. A kernel of twice the size
    with stride 2 does that with the image itself, without four strided copies of it.

    Args:
        model: Model, changed in place unless it has another stem.
    """
    if not isinstance(getattr(model.backbone, 'stem', None), Focus):
        return
    stem = model.backbone.stem.conv
    old = stem.conv
    weight = old.weight.unflatten(1, (2, 2, -1))  # (O, column, row, 3, k, k) of the 2x2 px
    weight = weight.permute(0, 3, 4, 2, 5, 1).flatten(4).flatten(2, 3)  # (O, 3, 2k, 2k)
    stem.conv = nn.Conv2d(
        weight.shape[1],
        old.out_channels,
        weight.shape[2:],
        stride=2,
        padding=2 * old.padding[0],
        bias=old.bias is not None,
    )
    stem.conv.load_state_dict(old.state_dict() | dict(weight=weight))
    model.backbone.stem = stem


def _extract_feat(model: 'KAPAO', inputs: Tensor) -> list[Tensor]:
    """Returns the levels of the neck in float32."""
    dtype = next(model.backbone.parameters()).dtype
    inputs = inputs.to(dtype, memory_format=torch.channels_last)
    return [level.float() for level in model.neck(model.backbone(inputs))]
