# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Computes the complete IoU (Zheng et al., 2020) as the KAPAO release does."""

import math

import torch
from torch import Tensor


def complete_iou(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """Computes the complete IoU of pairs of boxes.

    MMDetection's CIoU loss sets alpha to 0 where the IoU is below 0.5; here it is always active, as
    in torchvision's ``complete_box_iou_loss``. That one takes the corners of boxes, which is slower
    here, and returns NaN for a box of 0 x 0 px.

    Args:
        pred: Predicted boxes as center x, center y, width and height, (m, 4).
        target: True boxes in the same format and unit, (m, 4).
        eps: Small number that keeps divisions finite.

    Returns:
        CIoU of each pair, (m,), at most 1. alpha has no gradient.
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
