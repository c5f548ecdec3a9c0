# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Joins normalization, network, decoding and suppression in a single graph that can be exported.

Decoding and suppression are those of prediction, :mod:`kapao_mm.models.task_modules.postprocess`.
"""

import copy

import torch
from mmpose.models import PoseDataPreprocessor
from torch import Tensor, nn

from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.task_modules.postprocess import ClassNMS, class_nms, decode, detect
from kapao_mm.models.utils.inference import stride_stem
from kapao_mm.structures import InferenceSettings

# :func:`class_nms` for torch.export; TorchScript compiles the function itself.
CLASS_NMS = torch.library.custom_op('kapao::class_nms', class_nms, mutates_args=())


@CLASS_NMS.register_fake
def _(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    num_classes: int,
    iou_thr: float,
    max_objects: int,
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


class ExportGraph(nn.Module):
    """Normalization, network, decoding, score thresholds and suppression in one module.

    Args:
        model: Model with its final weights.
        settings: Inference settings.
        nms: :func:`class_nms`, compiled or as an operator.
        num_candidates: Number of candidates of each image, those with the highest scores of all
            outputs. None takes all above the thresholds.
    """

    def __init__(
        self,
        model: KAPAO,
        settings: InferenceSettings,
        nms: ClassNMS = CLASS_NMS,
        num_candidates: int | None = None,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        stride_stem(self.model)
        self.settings = settings
        self.nms = nms
        self.num_candidates = num_candidates

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detects the objects of a batch.

        Args:
            images: Network inputs, BGR (N, H, W, 3) uint8. H and W are multiples of the coarsest
                stride.

        Returns:
            The kept objects in px of the network input, see :data:`OUTPUT_NAMES`.
        """
        head = self.model.head
        grids = head(self.model.extract_feat(normalize(images, self.model.data_preprocessor)))
        score_thrs = self.settings.candidate_thrs if self.num_candidates is None else None
        candidates = decode(grids, head.anchors, head.strides, head.num_keypoints, score_thrs)
        return detect(candidates, self.settings, head.num_categories, self.nms, self.num_candidates)


def normalize(images: Tensor, preprocessor: PoseDataPreprocessor) -> Tensor:
    """Converts images (N, H, W, 3) uint8 to inputs (N, 3, H, W) as the preprocessor does."""
    inputs = images.permute(0, 3, 1, 2)
    if preprocessor._channel_conversion:
        inputs = inputs.flip(1)
    return (inputs.float() - preprocessor.mean) / preprocessor.std
