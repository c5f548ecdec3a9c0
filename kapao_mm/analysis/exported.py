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

MAX_POSITION, MAX_SCORE = 0.05, 1e-4  # largest rounding errors: px of the network input, score


def open_exported(
    path: Path, precision: str = 'float32', threads: int | None = None
) -> tuple[str | None, Network]:
    """Opens an exported file of any format.

    Args:
        path: File of ``kapao export``.
        precision: Precision of the computation.
        threads: Number of CPU threads; None for the backend's choice. TorchScript ignores it,
            because torch has a global setting.

    Returns:
        The metadata (JSON) and the network.

    Raises:
        InputError: If the backend is not installed, does not support the precision, or cannot read
            the file.
    """
    if path.suffix in BACKENDS:
        return BACKENDS[path.suffix](path, precision, threads)
    if precision != 'float32':
        raise InputError(f'torchscript has float32 only, not {precision}')
    from kapao_mm.deploy.export import open_torchscript  # needs ONNX, which other files do not

    return open_torchscript(path)


def example_input(path: Path | None, input_size: int) -> np.ndarray:
    """Returns a network input (S, S, 3) uint8 BGR that shows an image, or drawn people without one.

    Args:
        path: Image file.
        input_size: S, px.
    """
    if path:
        image = read_image(path)
    else:
        image, _ = draw_scene(np.random.default_rng(0), 'crowd', (input_size, input_size))
    return resize_and_pad(image, letterbox(image.shape[1::-1], input_size, square=True))


@torch.no_grad()
def detect(model: KAPAO, picture: np.ndarray, settings: InferenceSettings) -> Detections:
    """Detects the objects of a network input (S, S, 3) uint8 BGR in PyTorch."""
    image = torch.from_numpy(picture).permute(2, 0, 1)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[PoseDataSample()]))
    feats = model.extract_feat(batch['inputs'])
    return model.head.predict(feats, batch['data_samples'], settings)[0]


def check_exported(path: Path, picture: np.ndarray, expected: Detections) -> str:
    """Runs an exported file, and compares its detections with those of PyTorch.

    Args:
        path: Exported file.
        picture: Network input, (S, S, 3) uint8 BGR.
        expected: Result of :func:`detect` for the picture.

    Returns:
        A message with the number of detections and the largest difference.

    Raises:
        InputError: If the difference is larger than rounding errors.
    """
    _, network = open_exported(path)
    (found,) = run_network(network, picture[None])
    difference = compare_objects(found, expected)
    if not any(len(objects.bboxes) for objects in (*found, *expected)):
        return (
            'the file and PyTorch find nothing, so nothing was compared; give --image with what '
            'the model was trained to find'
        )
    counts = '{} pose objects, {} keypoint objects'.format(*(len(o.bboxes) for o in found))
    apart = f'{difference.position:.1g} px and {difference.score:.1g} of score'
    if difference.position > MAX_POSITION or difference.score > MAX_SCORE:
        raise InputError(
            f'{path} was written, but differs from the model: it finds {counts}, PyTorch '
            f'{" and ".join(str(len(o.bboxes)) for o in expected)}; largest difference {apart}'
        )
    return f'{counts}, at most {apart} from those of PyTorch'
