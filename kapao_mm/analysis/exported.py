# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Opens exported files of every format, and checks that they find what the model finds."""

from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401 - TorchScript files need its operators
from mmpose.structures import PoseDataSample

from kapao_mm.datasets.toy import draw_scene
from kapao_mm.deploy.runtime import BACKENDS, Network, run_network
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import letterbox, resize_and_pad
from kapao_mm.models.kapao import KAPAO
from kapao_mm.structures import Detections, InferenceSettings
from kapao_mm.utils.image_files import read_image

from .comparison import compare_objects

# Larger differences from PyTorch are errors of the export, and not of rounding.
MAX_POSITION = 0.05  # px of the network input
MAX_SCORE = 1e-4


def open_exported(
    path: Path, precision: str = 'float32', threads: int | None = None
) -> tuple[str | None, Network]:
    """Opens an exported file of any format.

    Args:
        path: File that ``kapao export`` wrote.
        precision: Precision of the computation, 'float32' or, with OpenVINO, 'bfloat16'.
        threads: Number of CPU threads; None for the backend's choice. Ignored for TorchScript,
            because torch sets the number of threads for the whole process.

    Returns:
        The metadata (JSON; None if an ONNX or OpenVINO file has none) and the network.

    Raises:
        InputError: If the backend is not installed, does not support the precision, or cannot read
            the file.
    """
    if path.suffix in BACKENDS:
        return BACKENDS[path.suffix](path, precision, threads)
    if precision != 'float32':
        raise InputError(f'torchscript has float32 only, not {precision}')
    from kapao_mm.deploy.export import open_torchscript  # here, because it also imports onnx

    return open_torchscript(path)


def example_input(path: Path | None, input_size: int) -> np.ndarray:
    """Makes a square network input to compare models on.

    Args:
        path: Image file; None to draw people.
        input_size: Side of the network input S, px.

    Returns:
        The network input, (S, S, 3) uint8 BGR.

    Raises:
        InputError: If the file is missing or not an image.
    """
    if path:
        image = read_image(path)
    else:
        image, _ = draw_scene(np.random.default_rng(0), 'crowd', (input_size, input_size))
    return resize_and_pad(image, letterbox(image.shape[1::-1], input_size, square=True))


@torch.no_grad()
def detect(model: KAPAO, network_input: np.ndarray, settings: InferenceSettings) -> Detections:
    """Detects the objects of a network input in PyTorch.

    Args:
        model: Model in evaluation mode.
        network_input: Network input, (S, S, 3) uint8 BGR.
        settings: Inference settings.

    Returns:
        Pose objects and keypoint objects, in px of the network input.
    """
    image = torch.from_numpy(network_input).permute(2, 0, 1)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[PoseDataSample()]))
    feats = model.extract_feat(batch['inputs'])
    return model.head.predict(feats, batch['data_samples'], settings)[0]


def check_exported(path: Path, network_input: np.ndarray, expected: Detections) -> str:
    """Runs an exported file, and compares the objects that it detects with those of PyTorch.

    Args:
        path: Exported file.
        network_input: Network input, (S, S, 3) uint8 BGR.
        expected: Result of :func:`detect` for the same network input.

    Returns:
        A message with the numbers of objects and the largest difference, or one that says that
        neither found an object.

    Raises:
        InputError: If a difference is larger than :data:`MAX_POSITION` or :data:`MAX_SCORE`.
    """
    _, network = open_exported(path)
    (found,) = run_network(network, network_input[None])
    difference = compare_objects(found, expected)
    if not any(len(objects.bboxes) for objects in (*found, *expected)):
        return (
            'the file and PyTorch find nothing, so nothing was compared; give an --image that '
            'shows what the model was trained to find'
        )
    counts = _counts(found)
    largest = f'position {difference.position:.1g} px, score {difference.score:.1g}'
    if difference.position > MAX_POSITION or difference.score > MAX_SCORE:
        raise InputError(
            f'{path} was written, but differs from the model: it finds {counts}, PyTorch '
            f'{" and ".join(str(len(o.bboxes)) for o in expected)}; largest differences: {largest}'
        )
    return f'{counts}; largest differences from PyTorch: {largest}'


def count_objects(path: Path, network_input: np.ndarray) -> str:
    """Runs an exported file, and says how many objects it detects.

    Args:
        path: Exported file.
        network_input: Network input, (S, S, 3) uint8 BGR.
    """
    _, network = open_exported(path)
    (found,) = run_network(network, network_input[None])
    return _counts(found)


def _counts(found: Detections) -> str:
    return '{} pose objects, {} keypoint objects'.format(*(len(o.bboxes) for o in found))
