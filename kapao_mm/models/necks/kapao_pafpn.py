# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The neck: a PAFPN whose levels keep their own widths."""

from typing import Any

from mmdet.models.necks import YOLOXPAFPN
from mmpose.registry import MODELS
from torch import nn


@MODELS.register_module()
class KAPAOPAFPN(YOLOXPAFPN):
    """MMDetection's YOLOXPAFPN without its output convolutions (docs/method.md, Network).

    KAPAO's head reads each level at that level's own width, so the 1x1 convolutions that bring all
    levels to one width do not exist.

    Args:
        in_channels: widths of the backbone's levels, finest first; also the widths of the outputs.
        kwargs: as in :class:`YOLOXPAFPN`, less ``out_channels``.
    """

    def __init__(self, in_channels: list[int], **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels=1, **kwargs)
        self.out_convs = nn.ModuleList()
