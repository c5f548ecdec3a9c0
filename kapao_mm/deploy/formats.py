# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Lists the formats of exported models and their limits."""

from pathlib import Path
from typing import NamedTuple

MIN_OPSET, MAX_OPSET = 18, 23  # versions that torch's exporter writes
TENSORRT_CANDIDATES = 3840  # limit of TensorRT's TopK
TENSORRT_MIN_SIZE = 256  # px; inputs of smaller height or width have fewer outputs than TopK needs
CALIBRATION_IMAGES = 300  # of int8; more hardly change the ranges of activations

RUNTIME = 'kapao predict IMAGE... --model {path}'
ENGINE = (
    'trtexec --onnx={path} --saveEngine={stem}.engine '
    '--minShapes=images:1x{least}x{least}x3 --optShapes=images:1x{size}x{size}x3 '
    '--maxShapes=images:8x{size}x{size}x3'
)


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        suffix: Suffix of its files.
        advice: Command that uses a file, with the placeholders ``path``, ``stem``, ``least`` and
            ``size`` (smallest and usual side of the network input, px).
    """

    suffix: str
    advice: str


FORMATS = {
    'onnx': Format('.onnx', RUNTIME),
    'openvino': Format('.xml', RUNTIME),
    'torchscript': Format('.pt', "torch.jit.load('{path}'), after import torchvision"),
    'tensorrt': Format('.onnx', ENGINE),
}


def next_command(name: str, path: Path, input_size: int) -> str:
    """Returns the command that uses an exported file.

    Args:
        name: Key of :data:`FORMATS`.
        path: Exported file.
        input_size: Usual side of the network input, px.
    """
    sizes = dict(least=TENSORRT_MIN_SIZE, size=input_size)
    return FORMATS[name].advice.format(path=path, stem=path.with_suffix(''), **sizes)
