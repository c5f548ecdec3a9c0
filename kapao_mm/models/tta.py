# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Implements test-time augmentation with scaled and flipped passes, merged before suppression.

The passes are described in docs/method.md, Network input.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.model import BaseTTAModel
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from kapao_mm.structures import InferenceSettings

from .task_modules.postprocess import Candidates, concatenate


@MODELS.register_module()
class KAPAOTTA(BaseTTAModel):
    """Runs the network on scaled and flipped copies of the input, then suppression and fusion once.

    MMEngine's class augments images in the pipeline and merges predictions. Here the copies are
    made from the preprocessed batch, and the candidates of all passes are merged.

    Args:
        module: KAPAO model or its config. Samples of a dataset are predicted with its settings for
            ``tta``, others with those for ``demo``, see :meth:`KAPAO.settings_for`.
        passes: Scale of each pass, and whether it is flipped left to right.
        pad_value: Value that fills a scaled input at the right and the bottom, up to the next
            multiple of the preprocessor's ``pad_size_divisor``.
    """

    def __init__(
        self, module: dict | nn.Module, passes: Sequence[tuple[float, bool]], pad_value: float
    ) -> None:
        super().__init__(module)
        self.passes = passes
        self.pad_value = pad_value

    def test_step(self, data: dict) -> list[PoseDataSample]:
        """Predicts the poses of a batch.

        Args:
            data: Batch of the dataloader. Its samples have ``flip_indices`` (K,) and what
                :meth:`KAPAO.add_pred_to_datasample` needs.

        Returns:
            The samples with predictions, see :meth:`KAPAO.add_pred_to_datasample`.
        """
        module = self.module
        batch = module.data_preprocessor(data, False)
        inputs, samples = batch['inputs'], batch['data_samples']
        settings = module.settings_for(samples, 'tta')
        flip_indices = np.stack([sample.flip_indices for sample in samples])
        candidates = self.decode(inputs, torch.from_numpy(flip_indices).to(inputs.device), settings)
        detections = module.head.detect(candidates, settings)
        return module.add_pred_to_datasample(detections, None, samples, settings)

    def decode(
        self, inputs: Tensor, flip_indices: Tensor, settings: InferenceSettings
    ) -> Candidates:
        """Decodes each pass and maps its candidates back to the unscaled, unflipped input.

        Args:
            inputs: Network inputs, (N, 3, H, W).
            flip_indices: Keypoint type that each type becomes in a mirrored image, (N, K) int64.
            settings: Inference settings.

        Returns:
            Candidates of all passes, pass by pass, in px of ``inputs``.
        """
        divisor = self.module.data_preprocessor.pad_size_divisor
        found = []
        for scale, flipped in self.passes:
            view = inputs.flip(-1) if flipped else inputs
            view = scale_and_pad(view, scale, divisor, self.pad_value)
            grids = self.module.head(self.module.extract_feat(view))
            part = self.module.head.decode(grids, settings)
            part = part._replace(bboxes=part.bboxes / scale, keypoints=part.keypoints / scale)
            if flipped:
                part = unflip(part, inputs.shape[-1], flip_indices, self.module.head.num_categories)
            found.append(part)
        return concatenate(found)

    def merge_preds(self, data_samples_list: Any) -> NoReturn:
        """Raises an error, because predictions are merged before suppression and not here.

        MMEngine would call this method after suppression.
        """
        raise NotImplementedError('KAPAOTTA merges candidates, not predictions; call test_step')


def scale_and_pad(inputs: Tensor, scale: float, divisor: int, pad_value: float) -> Tensor:
    """Resizes inputs bilinearly, and pads them at the right and the bottom.

    Args:
        inputs: Network inputs, (N, 3, H, W).
        scale: Factor of both sides, which are then rounded down.
        divisor: Number that the padded sides are multiples of.
        pad_value: Value of the padding.

    Returns:
        Resized and padded inputs, (N, 3, H', W').
    """
    height, width = (int(side * scale) for side in inputs.shape[2:])
    resized = F.interpolate(inputs, (height, width), mode='bilinear', align_corners=False)
    return F.pad(resized, (0, -width % divisor, 0, -height % divisor), value=pad_value)


def unflip(
    candidates: Candidates, width: int, flip_indices: Tensor, num_categories: int = 1
) -> Candidates:
    """Mirrors candidates left to right, and swaps left and right keypoints.

    Both the coordinates and the classes of left and right keypoints are swapped.

    Args:
        candidates: Candidates of the flipped input.
        width: Width of that input, px.
        flip_indices: See :meth:`KAPAOTTA.decode`.
        num_categories: C.

    Returns:
        Candidates of the unflipped input.
    """
    x1, y1, x2, y2 = candidates.bboxes.unbind(2)
    x, y = candidates.keypoints.take_along_dim(flip_indices[:, None, :, None], 2).unbind(3)
    poses = torch.arange(num_categories, device=flip_indices.device)  # they keep their category
    classes = torch.cat((poses.expand(len(flip_indices), -1), flip_indices + num_categories), 1)
    return candidates._replace(
        labels=classes.take_along_dim(candidates.labels, 1),
        bboxes=torch.stack((width - x2, y1, width - x1, y2), 2),
        keypoints=torch.stack((width - x, y), 3),
    )
