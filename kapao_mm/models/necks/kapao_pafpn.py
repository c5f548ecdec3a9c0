# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements KAPAO's neck, a PAFPN whose levels keep their own numbers of channels."""

from typing import Any

from mmdet.models.necks import YOLOXPAFPN
from mmpose.registry import MODELS
from torch import nn


@MODELS.register_module()
class KAPAOPAFPN(YOLOXPAFPN):
    """MMDetection's YOLOXPAFPN without its output convolutions (docs/method.md, Network).

    YOLOXPAFPN ends with 1x1 convolutions that bring all levels to the same number of channels.
    KAPAO's head does not need them, so they are removed.

    Args:
        in_channels: Channels of each level of the backbone, finest level first. The outputs have
            the same numbers.
        kwargs: Arguments of :class:`YOLOXPAFPN` except ``out_channels``.
    """

    def __init__(self, in_channels: list[int], **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels=1, **kwargs)
        self.out_convs = nn.ModuleList()
