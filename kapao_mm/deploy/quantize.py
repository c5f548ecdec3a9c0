# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Quantizes OpenVINO files: their convolutions then compute with 8-bit integers (int8).

Neither torch nor MMPose is needed, but NNCF, OpenVINO's own package for this.
"""

import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import letterbox, resize_and_pad
from kapao_mm.utils.atomic_file import atomic_path
from kapao_mm.utils.image_files import find_images, read_image

from .formats import CALIBRATION_IMAGES
from .metadata import KEY, ModelMetadata

if TYPE_CHECKING:
    from openvino import Model, Node


def quantize(source: Path, target: Path, images: Sequence[Path]) -> None:
    """Writes an int8 copy of an OpenVINO file.

    The range of each activation is measured on images, resized as in prediction. The head, decoding
    and the convolution before each output of the neck remain float32, because their errors are
    multiplied by anchors of up to 925 px.

    Args:
        source: ``.xml`` file that ``kapao export`` wrote, in float32.
        target: Path of the new ``.xml`` file, which gets a ``.bin`` file beside it.
        images: Image files that resemble those that the model will predict.

    Raises:
        InputError: If NNCF or openvino is not installed, ``source`` cannot be read, was not
            exported by KAPAO-MM or is int8 already, an image cannot be read, or ``target`` cannot
            be written.

    Examples:
        >>> quantize(Path('kapao_s.xml'), Path('kapao_s_int8.xml'), choose_images(Path('photos')))
    """
    nncf = import_nncf()
    import openvino

    try:
        model = openvino.Core().read_model(source)
    except RuntimeError as error:
        raise InputError(f'{source.absolute()} cannot be read as a model') from error
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    metadata = ModelMetadata.from_json(text, str(source))
    if metadata.precision != 'float32':
        raise InputError(f'{source} is {metadata.precision} already; give the float32 file')
    fuse_swish(model)
    with redirect_stdout(io.StringIO()):  # progress bars
        model = nncf.quantize(
            model,
            nncf.Dataset(NetworkInputs(images, metadata)),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,  # Swish is not symmetric
            target_device=nncf.TargetDevice.CPU,
            ignored_scope=nncf.IgnoredScope(names=float_operations(model)),
        )
    model.set_rt_info(metadata._replace(precision='int8').to_json(), KEY)
    save_openvino(model, target)


def import_nncf() -> ModuleType:
    """Imports NNCF, without its messages to the user and to its makers.

    Raises:
        InputError: If NNCF or openvino is not installed.
    """
    os.environ.setdefault('NNCF_CI', '1')  # otherwise NNCF reports its use
    try:
        import nncf
        import openvino  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'kapao-mm[int8]'") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def choose_images(folder: Path, count: int = CALIBRATION_IMAGES) -> list[Path]:
    """Chooses images of a folder, evenly spread over their names.

    Args:
        folder: Folder of images.
        count: Number of images; all are taken if there are fewer.

    Raises:
        InputError: If it is not a folder, cannot be read or has no images.
    """
    if not folder.is_dir():
        raise InputError(
            f'{folder.absolute()} is not a folder: give one with images to calibrate on'
        )
    images = []
    for found in find_images([str(folder)]):
        if isinstance(found, InputError):
            raise found
        images.append(found)
    count = min(count, len(images))
    return [images[i * len(images) // count] for i in range(count)]


class NetworkInputs:
    """The network inputs of image files, (1, H, W, 3) uint8 BGR, read one by one.

    Args:
        images: Image files.
        metadata: Metadata of the model, with its input size.
    """

    def __init__(self, images: Sequence[Path], metadata: ModelMetadata) -> None:
        self._images = images
        self._metadata = metadata

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[np.ndarray]:
        size, square = self._metadata.input_size, self._metadata.square_input
        for path in self._images:
            image = read_image(path)
            yield resize_and_pad(image, letterbox(image.shape[1::-1], size, square=square))[None]


def fuse_swish(model: 'Model') -> None:
    """Replaces each product of a tensor and its sigmoid by one operation, Swish, in place.

    OpenVINO does so itself when it compiles a model. Before that, NNCF would quantize the tensor,
    its sigmoid and their product one by one, which is less precise and takes 1.5 times as long.
    """
    from openvino import opset15
    from openvino.utils import replace_node

    for product in model.get_ordered_ops():
        if product.get_type_name() != 'Multiply':
            continue
        factors = [factor.get_source_output() for factor in product.inputs()]
        for value, gate in (factors, factors[::-1]):
            sigmoid = gate.get_node()
            if (
                sigmoid.get_type_name() == 'Sigmoid'
                and sigmoid.input(0).get_source_output() == value
            ):
                swish = opset15.swish(value)
                swish.set_friendly_name(product.get_friendly_name())
                replace_node(product, swish)
                break


def float_operations(model: 'Model') -> list[str]:
    """Names the operations that stay float32.

    These are the last convolutions (those of the head), all that follows them, and the convolutions
    right before them.
    """
    names = []
    leads_to_convolution = {}
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        users = [user.get_node() for out in node.outputs() for user in out.get_target_inputs()]
        leads_to_convolution[name] = any(
            _is_convolution(user) or leads_to_convolution[user.get_friendly_name()]
            for user in users
        )
        if not leads_to_convolution[name] and node.get_type_name() not in ('Constant', 'Result'):
            names.append(name)
            if _is_convolution(node):
                names += [before.get_friendly_name() for before in _convolutions_before(node)]
    return sorted(set(names))


def save_openvino(model: 'Model', path: Path) -> None:
    """Writes a model to an OpenVINO file, with its weights in a ``.bin`` file beside it.

    Raises:
        InputError: If the file cannot be written.
    """
    import openvino

    with atomic_path(path) as temporary:
        try:
            openvino.save_model(model, temporary, compress_to_fp16=False)
        except RuntimeError as error:
            raise InputError(f'{path.absolute()} cannot be written: {error}') from error


def _is_convolution(node: 'Node') -> bool:
    return node.get_type_name() == 'Convolution'


def _convolutions_before(node: 'Node') -> Iterator['Node']:
    """Yields the convolutions whose outputs reach a node without another convolution between."""
    for source in (value.get_source_output().get_node() for value in node.inputs()):
        if _is_convolution(source):
            yield source
        else:
            yield from _convolutions_before(source)
