# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Splits the inference of a backend into steps that can be timed one by one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import Tensor

from kapao_mm.deploy.metadata import ModelMetadata
from kapao_mm.deploy.runtime import split_by_image
from kapao_mm.engine import load_weights
from kapao_mm.errors import InputError
from kapao_mm.functional.prediction import DetectedObjects
from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.task_modules.candidates import decode_candidates
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.utils.config import load_config

from .exported import open_exported
from .synthetic_crowd import confident, make_crowds
from .timing import Part

IN_GRAPH = 'forward + NMS'  # part of an exported model


class Predictor(NamedTuple):
    """The steps of a backend between letterbox and fusion.

    Attributes:
        prepare: Function that finishes the pre-processing of a batch (N, H, W, 3) uint8.
        detect: Function that returns the objects of each image, and times its parts.
        settings: Inference settings for fusion.
        keypoint_counts: Number of keypoint types of each category.
    """

    prepare: Callable[[np.ndarray], Any]
    detect: Callable[[Any, Part], list[DetectedObjects]]
    settings: Mapping[str, float]
    keypoint_counts: list[int]


def build_model(config: str, checkpoint: str | None) -> KAPAO:
    """Builds a model, with random weights if there is no checkpoint."""
    model = MODELS.build(load_config(config).model)
    if checkpoint:
        load_weights(model, checkpoint)
    else:
        model.init_weights()
    return model


def torch_predictor(
    row: Mapping[str, Any], use: str, people: int, device: torch.device
) -> Predictor:
    """Returns the steps of a model in torch; without a checkpoint they find synthetic crowds."""
    model = build_model(row['config'], row['checkpoint'])
    prepare_for_inference(model, row['precision'], row['backend'] == 'torch-compile')
    model.to(device)
    head, settings = model.head, model.settings[use]
    score_thr = min(settings['pose_score_thr'], settings['keypoint_score_thr'])
    crowds = None
    if not row['checkpoint']:
        crowds = make_crowds(people, row['batch_size'], head.keypoint_counts, row['input_hw'])
        crowds = confident(crowds, settings, device)

    def prepare(batch: np.ndarray) -> Tensor:
        inputs = list(torch.from_numpy(batch).permute(0, 3, 1, 2))
        samples = [PoseDataSample() for _ in inputs]
        return model.data_preprocessor(dict(inputs=inputs, data_samples=samples))['inputs']

    def detect(inputs: Tensor, part: Part) -> list[DetectedObjects]:
        with part('forward'):
            grids = head(model.extract_feat(inputs))
        if crowds:
            make_confident(grids, len(crowds.scores))
        with part('NMS'):
            candidates = decode_candidates(
                grids, head.anchors, head.strides, head.num_keypoints, score_thr
            )
            return head.detect(crowds or candidates, len(inputs), settings)

    return Predictor(prepare, detect, settings, head.keypoint_counts)


def make_confident(grids: list[Tensor], count: int) -> None:
    """Makes ``count`` outputs of the finest grid confident and all others not, in place."""
    for grid in grids:
        grid[..., 4] = -20.0  # objectness, before the sigmoid
    places = torch.randperm(grids[0][..., 0].numel(), device=grids[0].device)[:count]
    index = np.unravel_index(places.cpu().numpy(), grids[0].shape[:4])
    grids[0][(*index, slice(4, 6))] = 20.0  # objectness and the first class


def exported_predictor(row: Mapping[str, Any], use: str, threads: int | None) -> Predictor:
    """Returns the steps of an exported model.

    Raises:
        InputError: If the backend is not installed or does not support the precision, or the file
            was exported with the thresholds for another use.
    """
    path = Path(row['file'])
    text, network = open_exported(path, row['precision'], threads)
    metadata = ModelMetadata.from_json(text, str(path))
    if metadata.use != use:
        raise InputError(f'{path} was exported for {metadata.use}; give --use {metadata.use}')

    def detect(batch: np.ndarray, part: Part) -> list[DetectedObjects]:
        with part(IN_GRAPH):
            return split_by_image(network(batch), len(batch))

    return Predictor(np.asarray, detect, metadata.settings, metadata.keypoint_counts)
