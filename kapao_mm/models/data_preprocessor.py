# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Normalizes the images of a batch together, without waiting for the device."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpose.models import PoseDataPreprocessor
from mmpose.registry import MODELS
from torch import Tensor
from torch.nn import functional as F


@MODELS.register_module()
class KAPAODataPreprocessor(PoseDataPreprocessor):
    """PoseDataPreprocessor of MMPose that handles all images of a batch in one step.

    The result is the same. MMPose's class normalizes image by image, in several copies, and waits
    for a GPU at each image and label. Batches of images that differ in their shapes are left to it.

    Args:
        mean: Mean of each channel.
        *args: Further positional arguments of :class:`PoseDataPreprocessor`.
        non_blocking: Whether to copy to a GPU without waiting for it.
        **kwargs: Keyword arguments of :class:`PoseDataPreprocessor`.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        *args: Any,
        non_blocking: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean, *args, non_blocking=non_blocking, **kwargs)
        self._subtracts = mean is not None and any(mean)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Moves a batch to the device and normalizes its images.

        Args:
            data: Batch of the dataloader, with ``inputs``, (3, H, W) each, and ``data_samples``.
            training: Whether to apply ``batch_augments``.

        Returns:
            ``inputs`` (N, 3, H, W) float32, and ``data_samples``.
        """
        images = data['inputs']
        if isinstance(images, Tensor) or len({image.shape for image in images}) != 1:
            return super().forward(data, training)
        data = self.cast_data(data)
        inputs, samples = self._normalize(torch.stack(data['inputs'])), data['data_samples']
        bottom, right = (-side % self.pad_size_divisor for side in inputs.shape[2:])
        if bottom or right:
            inputs = F.pad(inputs, (0, right, 0, bottom), value=self.pad_value)
        shape = tuple(inputs.shape[2:])
        for sample in samples:
            sample.set_metainfo(dict(batch_input_shape=shape, pad_shape=shape))
        for augment in (training and self.batch_augments) or ():
            inputs, samples = augment(inputs, samples)
        return dict(inputs=inputs, data_samples=samples)

    def _normalize(self, images: Tensor) -> Tensor:
        """Normalizes images (N, 3, H, W) of any dtype; returns float32."""
        if self._channel_conversion:
            images = images.flip(1)
        if not self._enable_normalize:
            return images.float()
        if self._subtracts:
            return (images - self.mean).div_(self.std)
        return images / self.std
