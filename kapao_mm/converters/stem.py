# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Rearranges the weights of other stems for KAPAO's Focus stem without changing its outputs."""

import torch
from torch import Tensor


def focus_from_conv(weight: Tensor) -> Tensor:
    """Rearranges a 6 x 6 convolution with stride 2 as the 3 x 3 convolution of a Focus stem.

    Focus first splits the image into its even and odd rows and columns, 12 channels in all, in the
    order (even, even), (odd, even), (even, odd), (odd, odd) of (row, column). A 6 x 6 kernel splits
    in the same way, so both compute the same sums.

    Args:
        weight: Weight of the 6 x 6 convolution, (C, 3, 6, 6).

    Returns:
        Weight of the convolution in a Focus stem, (C, 12, 3, 3).
    """
    return torch.cat([weight[:, :, y::2, x::2] for x in (0, 1) for y in (0, 1)], 1)


def rgb_focus_from_bgr(weight: Tensor) -> Tensor:
    """Adapts a Focus stem for BGR images from 0 to 255 to RGB images from 0 to 1.

    Args:
        weight: Weight of the convolution in the Focus stem, (C, 12, 3, 3).

    Returns:
        Weight of the same shape.
    """
    return weight.unflatten(1, (4, 3)).flip(2).flatten(1, 2) * 255
