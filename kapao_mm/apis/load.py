# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Loads a model from the file of a checkpoint or of an exported model."""

import os
from pathlib import Path
from typing import Any

from kapao_mm.errors import InputError

from .predictor import Predictor

EXPORTED = ('.onnx', '.xml')  # suffixes of exported models


def load_predictor(
    model: str | Path,
    config: Any = None,
    *,
    device: str | None = None,
    amp: bool = False,
    threads: int | None = None,
) -> Predictor:
    """Loads a model that predicts images, videos and streams.

    Args:
        model: Path or URL of a checkpoint, or path of an exported model (``.onnx`` or ``.xml``),
            which needs neither torch nor MMPose.
        config: Config of the checkpoint: path of its file, name, or a loaded one. None takes the
            config inside the checkpoint, of which nothing is executed.
        device: Device for a checkpoint, such as ``cpu`` or ``cuda:0``. None takes a GPU if there is
            one, as an ONNX file always does if its onnxruntime can.
        amp: Whether to compute in half precision; bfloat16 on a CPU.
        threads: Number of CPU threads. None leaves the choice to the backend.

    Raises:
        InputError: If the model cannot be loaded, or an argument does not fit its kind.

    Examples:
        >>> model = load_predictor('kapao_s.onnx')
        >>> results = model.predict('a.jpg')
    """
    if Path(model).suffix in EXPORTED:
        if config is not None:
            raise InputError(f'{model} is an exported model, which has its config inside')
        if device not in (None, 'cpu') and Path(model).suffix == '.xml':
            raise InputError(f'device {device}: an OpenVINO file runs on the CPU')
        from kapao_mm.deploy.runtime import KAPAORuntime

        return KAPAORuntime(model, 'bfloat16' if amp else 'float32', threads)
    # Waiting threads of torch would keep the cores from the threads that read and write.
    os.environ.setdefault('GOMP_SPINCOUNT', '10000')
    try:
        import torch

        from .kapao_inferencer import KAPAOInferencer
    except ImportError as error:
        raise InputError(
            f'{model} needs torch and MMPose ({error}): install them (docs/install.md), or export '
            'the model where they are and predict with the .onnx file'
        ) from error
    if threads is not None:
        if threads < 1:
            raise InputError(f'threads must be at least 1, got {threads}')
        torch.set_num_threads(threads)
    if device is not None:
        try:
            torch.empty(1, device=device)
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f'device {device} cannot be used: {reason}') from error
    return KAPAOInferencer(*((config, model) if config else (model,)), amp=amp, device=device)
