# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements the backbone of KAPAO with a choice of the layer order in its last stage."""

from typing import Any

from mmdet.models.backbones import CSPDarknet
from mmpose.registry import MODELS
from torch import nn


@MODELS.register_module()
class KAPAOCSPDarknet(CSPDarknet):
    """MMDetection's CSPDarknet, whose spatial pyramid pooling may come after the last CSP layer.

    KAPAO has the pooling before the CSP layer, as YOLOv5 up to release 5.0. YOLOv5 6.0 and later,
    and MMYOLO's YOLOv5, have it after the layer.

    Args:
        spp_last: Whether the pooling is the last layer.
        kwargs: Arguments of :class:`CSPDarknet`.
    """

    def __init__(self, spp_last: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if spp_last:
            name = self.layers[-1]
            conv, pooling, csp_layer = getattr(self, name)
            setattr(self, name, nn.Sequential(conv, csp_layer, pooling))
