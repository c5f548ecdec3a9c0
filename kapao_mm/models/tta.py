# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Test-time augmentation: scaled and flipped passes, merged before NMS.

The passes are those of docs/method.md, Network input.
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

from .task_modules.candidates import Candidates, concatenate


@MODELS.register_module()
class KAPAOTTA(BaseTTAModel):
    """Runs the network on scaled and flipped copies of the input; NMS and fusion run once.

    MMEngine's class augments in the pipeline and merges predictions. Here the passes are made from
    the preprocessed batch, and the candidates of all of them are merged.

    Args:
        module: the KAPAO model or its config; its settings for ``tta`` apply, or those for
            pictures, see :meth:`KAPAO.settings_for`.
        passes: scale and whether to flip left-right, for each pass.
        pad_value: fills a scaled input up to the next multiple of the preprocessor's
            ``pad_size_divisor``, at the right and bottom.
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
            data: a batch of the dataloader; its samples have ``flip_indices`` (K,) besides what
                :meth:`KAPAO.add_pred_to_datasample` needs.

        Returns:
            The samples with predictions, as :meth:`KAPAO.add_pred_to_datasample` says.
        """
        module = self.module
        batch = module.data_preprocessor(data, False)
        inputs, samples = batch['inputs'], batch['data_samples']
        settings = module.settings_for(samples, 'tta')
        flip_indices = np.stack([sample.flip_indices for sample in samples])
        candidates = self.candidates(
            inputs, torch.from_numpy(flip_indices).to(inputs.device), settings
        )
        objects = module.head.detect(candidates, len(samples), settings)
        return module.add_pred_to_datasample(objects, None, samples, settings)

    def candidates(self, inputs: Tensor, flip_indices: Tensor, test_cfg: dict) -> Candidates:
        """Decodes every pass and maps it back to the unscaled, unflipped input.

        Args:
            inputs: (N, 3, H, W).
            flip_indices: the keypoint type that each becomes in the mirror, (N, K) int64.
            test_cfg: see :meth:`KAPAOHead.candidates`.

        Returns:
            The candidates of the passes, one after the other, px of ``inputs``.
        """
        divisor = self.module.data_preprocessor.pad_size_divisor
        found = []
        for scale, flipped in self.passes:
            view = inputs.flip(-1) if flipped else inputs
            view = scale_and_pad(view, scale, divisor, self.pad_value)
            part = self.module.head.candidates(self.module.extract_feat(view), test_cfg)
            part = part._replace(boxes=part.boxes / scale, keypoints=part.keypoints / scale)
            if flipped:
                part = unflip(part, inputs.shape[-1], flip_indices, self.module.head.num_categories)
            found.append(part)
        return concatenate(found)

    def merge_preds(self, data_samples_list: Any) -> NoReturn:
        """MMEngine's way to merge, which is too late here: NMS has run by then."""
        raise NotImplementedError('KAPAOTTA merges candidates, not predictions; call test_step')


def scale_and_pad(inputs: Tensor, scale: float, divisor: int, pad_value: float) -> Tensor:
    """Resizes bilinearly to the floor of the scaled sides, and pads at the right and bottom.

    Args:
        inputs: (N, 3, H, W).
        scale: of both sides.
        divisor: the padded sides are multiples of it.
        pad_value: fills the padding.

    Returns:
        (N, 3, H', W').
    """
    height, width = (int(side * scale) for side in inputs.shape[2:])
    resized = F.interpolate(inputs, (height, width), mode='bilinear', align_corners=False)
    return F.pad(resized, (0, -width % divisor, 0, -height % divisor), value=pad_value)


def unflip(
    candidates: Candidates, width: int, flip_indices: Tensor, num_categories: int = 1
) -> Candidates:
    """Mirrors candidates left-right; left keypoints become right ones, and the other way round.

    Args:
        candidates: of the flipped input.
        width: of that input, px.
        flip_indices: see :meth:`KAPAOTTA.candidates`.
        num_categories: C.

    Returns:
        The candidates of the unflipped input.
    """
    swapped = flip_indices[candidates.image]  # (M, K)
    x1, y1, x2, y2 = candidates.boxes.unbind(1)
    x, y = candidates.keypoints.take_along_dim(swapped[..., None], 1).unbind(2)
    poses = torch.arange(num_categories, device=swapped.device)  # keep their category
    classes = torch.cat((poses.expand(len(swapped), -1), swapped + num_categories), 1)  # (M, C + K)
    return candidates._replace(
        labels=classes.take_along_dim(candidates.labels[:, None], 1).squeeze(1),
        boxes=torch.stack((width - x2, y1, width - x1, y2), 1),
        keypoints=torch.stack((width - x, y), 2),
    )
