# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""A model whose random network finds hundreds of overlapping objects in noise, none in black."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor, nn

from kapao_mm.models.kapao import KAPAO
from kapao_mm.structures import Detections, InferenceSettings
from kapao_mm.utils.config import load_config

WIDTH = 8
SETTINGS = InferenceSettings(
    pose_score_thr=0.3,
    pose_iou_thr=0.6,
    keypoint_score_thr=0.4,
    keypoint_iou_thr=0.25,
    fusion_score_thr=0.3,
    fusion_distance=50,
    max_candidates=30000,
    max_objects=300,
)


class Pixels(nn.Module):
    """Backbone and neck in a layer a level: every cell sees one pixel. It is exported quickly."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, WIDTH, 1, stride) for stride in (8, 16, 32, 64))
        for conv in self.convs:
            nn.init.normal_(conv.weight, std=4)
            nn.init.zeros_(conv.bias)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """All levels, (N, C_l, H_l, W_l)."""
        return [conv(inputs).sin() for conv in self.convs]


@pytest.fixture(scope='session')
def settings() -> InferenceSettings:
    """Poses and keypoint objects have a suppression each."""
    return SETTINGS


@pytest.fixture(scope='session')
def make_model(repo) -> Callable[..., KAPAO]:
    """Makes a model with that network."""

    def make(num_keypoints: int | list[int]) -> KAPAO:
        cfg = load_config(repo / 'configs/_base_/models/kapao_n.py').model
        cfg.backbone.widen_factor = 0.125
        cfg.head.update(num_keypoints=num_keypoints, in_channels=[WIDTH] * 4)
        torch.manual_seed(0)
        model = MODELS.build(cfg).eval().requires_grad_(False)
        model.backbone, model.neck = Pixels(), nn.Identity()
        num_classes = model.head.head_module.num_classes
        for conv in model.head.head_module.convs:
            nn.init.normal_(conv.weight, std=0.5)
            rows = conv.weight.view(3, -1, WIDTH)
            rows[:, :4] *= 0.2  # boxes near their anchors, so that many overlap
            rows[:, 5 + num_classes :] *= 0.2
            conv.bias.view(3, -1)[:, 4] = -1  # objectness, of nothing in black
        return model.requires_grad_(False)

    return make


@pytest.fixture(scope='session')
def make_images() -> Callable[..., np.ndarray]:
    """Makes a batch of noise, BGR (N, H, W, 3) uint8; its second image is black."""

    def make(number: int, height: int, width: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (number, height, width, 3), dtype=np.uint8)
        images[1:2] = 0
        return images

    return make


@pytest.fixture(scope='session')
def detect() -> Callable[..., tuple[list[Detections], int]]:
    """Makes a function that detects as the model does, and counts the candidates."""

    @torch.no_grad()
    def run(model: KAPAO, images: np.ndarray, settings: InferenceSettings):
        inputs = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        samples = [PoseDataSample() for _ in images]
        batch = model.data_preprocessor(dict(inputs=inputs, data_samples=samples))
        grids = model.head(model.extract_feat(batch['inputs']))
        candidates = model.head.decode(grids, settings)
        above = (candidates.scores > 0).sum().item()
        return model.head.detect(candidates, settings), above

    return run
