# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Complete IoU (Zheng et al., 2020) as KAPAO uses it."""

import math

import torch
from torch import Tensor


def complete_iou(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of paired boxes.

    MMDetection's CIoU loss switches alpha off below an IoU of 0.5; KAPAO's does not.

    Args:
        pred: centre x, centre y, width, height, (m, 4).
        target: likewise, same unit.
        eps: keeps divisions finite.

    Returns:
        CIoU, (m,), at most 1. alpha carries no gradient.
    """
    pred_low, pred_high = pred[:, :2] - pred[:, 2:] / 2, pred[:, :2] + pred[:, 2:] / 2
    low, high = target[:, :2] - target[:, 2:] / 2, target[:, :2] + target[:, 2:] / 2

    overlap = (torch.minimum(pred_high, high) - torch.maximum(pred_low, low)).clamp(min=0).prod(1)
    union = pred[:, 2:].prod(1) + target[:, 2:].prod(1) - overlap
    iou = overlap / (union + eps)  # (m,)

    hull = torch.maximum(pred_high, high) - torch.minimum(pred_low, low)
    distance = (pred[:, :2] - target[:, :2]).square().sum(1) / (hull.square().sum(1) + eps)

    angles = torch.atan(target[:, 2] / (target[:, 3] + eps)) - torch.atan(
        pred[:, 2] / (pred[:, 3] + eps)
    )
    aspect = 4 / math.pi**2 * angles.square()
    with torch.no_grad():
        alpha = aspect / (aspect - iou + 1 + eps)
    return iou - distance - alpha * aspect
