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
from kapao_mm.deploy.runtime import run_network
from kapao_mm.engine import load_weights
from kapao_mm.errors import InputError
from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.structures import Detections, InferenceSettings
from kapao_mm.utils.config import load_config

from .exported import open_exported
from .synthetic_crowd import filter_by_score, make_crowds
from .timing import Part

IN_GRAPH = 'forward + NMS'  # part of an exported model


class Predictor(NamedTuple):
    """The steps of a backend between letterbox and fusion.

    Attributes:
        prepare: Function that finishes the pre-processing of a batch (N, H, W, 3) uint8.
        detect: Function that returns the objects of each image, and times its parts.
        settings: Inference settings.
        keypoint_counts: Number of keypoint types of each category.
    """

    prepare: Callable[[np.ndarray], Any]
    detect: Callable[[Any, Part], list[Detections]]
    settings: InferenceSettings
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
    crowds = None
    if not row['checkpoint']:
        crowds = make_crowds(people, row['batch_size'], head.keypoint_counts, row['input_hw'])
        crowds = filter_by_score(crowds, settings, device)

    def prepare(batch: np.ndarray) -> Tensor:
        inputs = list(torch.from_numpy(batch).permute(0, 3, 1, 2))
        samples = [PoseDataSample() for _ in inputs]
        return model.data_preprocessor(dict(inputs=inputs, data_samples=samples))['inputs']

    def detect(inputs: Tensor, part: Part) -> list[Detections]:
        with part('forward'):
            grids = head(model.extract_feat(inputs))
        if crowds:
            set_candidates(grids, crowds.scores.shape[1])
        with part('NMS'):
            candidates = head.decode(grids, settings)
            return head.detect(crowds or candidates, settings)

    return Predictor(prepare, detect, settings, head.keypoint_counts)


def set_candidates(grids: list[Tensor], count: int) -> None:
    """Gives each image ``count`` outputs with a high score on the finest level, in place."""
    for grid in grids:
        grid[:, :, 4] = -20.0  # objectness, before the sigmoid
    outputs = grids[0].movedim(2, 4).flatten(1, 3)  # a copy, (N, Na H W, No)
    for image in outputs:
        index = torch.randperm(len(image), device=image.device)[:count]
        image[index, 4:6] = 20.0  # objectness and the first class
    grids[0].copy_(outputs.view(grids[0].movedim(2, 4).shape).movedim(4, 2))


def exported_predictor(row: Mapping[str, Any], use: str) -> Predictor:
    """Returns the steps of an exported model.

    Raises:
        InputError: If the backend is not installed or does not support the precision, or the file
            was exported with the thresholds for another use, or is int8 and the row is not.
    """
    path = Path(row['file'])
    int8 = row['precision'] == 'int8'
    text, network = open_exported(path, 'float32' if int8 else row['precision'], row['threads'])
    metadata = ModelMetadata.from_json(text, str(path))
    if metadata.use != use:
        raise InputError(f'{path} was exported for {metadata.use}; give --use {metadata.use}')
    if int8 != (metadata.precision == 'int8'):
        raise InputError(f'{path} is {metadata.precision}; give --precisions {metadata.precision}')

    def detect(batch: np.ndarray, part: Part) -> list[Detections]:
        with part(IN_GRAPH):
            return run_network(network, batch)

    return Predictor(np.asarray, detect, metadata.settings, metadata.metainfo.keypoint_counts)
