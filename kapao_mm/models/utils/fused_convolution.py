# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Computes a convolution, its bias and SiLU in one call of oneDNN, for inference on a CPU.

torch calls them one after the other, and computes convolutions of 1 x 1 without oneDNN if it has
one thread. The calls are those that torch.compile makes, here without compiling.
"""

from functools import cache
from types import MethodType

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from .training import is_compiling


def fuse_convolutions(model: nn.Module) -> None:
    """Makes the convolutions of a model faster on a CPU; results differ by rounding only.

    Models on a GPU, exported and compiled ones compute as before.

    Args:
        model: Model in evaluation mode without batch norm, changed in place.
    """
    for module in model.modules():
        if _is_plain(module):
            module.forward = MethodType(_convolution, module)
        elif isinstance(module, ConvModule) and _is_convolution_and_silu(module):
            module.forward = MethodType(_convolution_and_silu, module)


def _is_plain(module: nn.Module) -> bool:
    """Returns whether a module is a convolution of weights on a CPU that oneDNN can compute."""
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == 'zeros'
        and not isinstance(module.padding, str)
        and module.weight.device.type == 'cpu'
        and _is_available(module.weight.dtype)
    )


def _is_convolution_and_silu(module: ConvModule) -> bool:
    return (
        _is_plain(module.conv)
        and isinstance(module.norm, nn.Identity | None)
        and module.order == ('conv', 'norm', 'act')
        and not module.with_explicit_padding
        and isinstance(getattr(module, 'activate', None), nn.SiLU)
    )


@cache
def _is_available(dtype: torch.dtype) -> bool:
    """Returns whether this torch has the call, and this CPU computes it in a dtype."""
    conv = nn.Conv2d(1, 1, 1, dtype=dtype).requires_grad_(False)
    try:
        _call(conv, torch.ones(1, 1, 2, 2, dtype=dtype), 'swish')
    except (AttributeError, RuntimeError):
        return False
    return True


def _convolution(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return _call(conv, x, 'none') if _is_eager(x) else nn.Conv2d.forward(conv, x)


def _convolution_and_silu(module: ConvModule, x: Tensor) -> Tensor:
    return _call(module.conv, x, 'swish') if _is_eager(x) else ConvModule.forward(module, x)


def _is_eager(x: Tensor) -> bool:
    return x.device.type == 'cpu' and not (torch.jit.is_tracing() or is_compiling())


def _call(conv: nn.Conv2d, x: Tensor, activation: str) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        *(x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups),
        *(activation, [], ''),
    )
