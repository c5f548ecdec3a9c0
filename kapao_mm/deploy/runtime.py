# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts poses with an exported model, using numpy, OpenCV and onnxruntime or openvino.

Neither torch nor MMPose is needed. It is also a command: ``python -m kapao_mm.deploy.runtime MODEL
IMAGE...``
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kapao_mm.errors import InputError
from kapao_mm.functional.drawing import draw_prediction
from kapao_mm.functional.drawing_style import Layers, Style
from kapao_mm.functional.letterbox import letterbox, resize_and_pad
from kapao_mm.functional.pixels import as_bgr
from kapao_mm.functional.postprocess import predict_from_letterbox
from kapao_mm.structures import OUTPUT_NAMES, Detections, Prediction, split_by_image
from kapao_mm.utils.cli import add_image_options, exit_on_input_error
from kapao_mm.utils.image_files import Predictor, predict_files, read_image

from .metadata import KEY, ModelMetadata

Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # images (N, H, W, 3) -> outputs by name

PRECISIONS = {'float32': 'f32', 'bfloat16': 'bf16'}  # with OpenVINO's names
# TensorFloat-32 is switched off, because it is less precise than float32.
PROVIDERS = {'CUDAExecutionProvider': {'use_tf32': '0'}, 'CPUExecutionProvider': {}}


class KAPAORuntime:
    """An exported model (``tools/deployment/export.py``) that predicts poses in images.

    Args:
        model_file: Path of the model: ``.onnx`` for onnxruntime, which uses a GPU if it can, or
            ``.xml`` (with its ``.bin`` beside it) for openvino.
        precision: Precision of the computation, ``float32`` or, with openvino, ``bfloat16``.
        threads: Number of CPU threads. None leaves the choice to the backend.
        input_size: Longer side of the network input, px, a multiple of 64. None takes that of the
            model's config.

    Attributes:
        metadata: Metadata of the model.
        input_size: Longer side of the network input, px.

    Raises:
        InputError: If the backend is not installed or lacks the precision, ``model_file`` is
            missing, cannot be read or was not exported by KAPAO-MM, or ``threads`` or
            ``input_size`` is wrong.

    Examples:
        >>> runtime = KAPAORuntime('kapao_s.onnx')
        >>> (prediction,) = runtime([cv2.imread('a.jpg')])
        >>> cv2.imwrite('poses.jpg', runtime.draw(cv2.imread('a.jpg'), prediction))
    """

    def __init__(
        self,
        model_file: str | Path,
        precision: str = 'float32',
        threads: int | None = None,
        input_size: int | None = None,
    ) -> None:
        path = Path(model_file)
        if path.suffix not in BACKENDS:
            raise InputError(f'{path} is no exported model: give a file {" or ".join(BACKENDS)}')
        if not path.is_file():
            raise InputError(f'model file {path.absolute()} does not exist')
        if threads is not None and threads < 1:
            raise InputError(f'threads must be at least 1, got {threads}')
        metadata, self._network = BACKENDS[path.suffix](path, precision, threads)
        self.metadata = ModelMetadata.from_json(metadata, str(path))
        self.input_size = self.metadata.input_size if input_size is None else input_size
        letterbox((1, 1), self.input_size)  # refuses a wrong size now instead of at each image
        self._style = Style.from_metainfo(self.metadata.metainfo, bgr=True)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predicts the poses of images, with one batch for each input shape.

        Args:
            images: Images, BGR (h, w, 3) uint8 of any sizes, or of another kind that :func:`as_bgr`
                converts.

        Returns:
            A prediction for each image, in px of the image.

        Raises:
            InputError: If an image cannot be converted, or a single image is given instead of a
                list.
        """
        if hasattr(images, 'shape') and len(images.shape) != 4:
            raise InputError('give a list of images, also for one: runtime([image])')
        images = [as_bgr(image) for image in images]
        square = self.metadata.square_input
        letterboxes = [
            letterbox(image.shape[1::-1], self.input_size, square=square) for image in images
        ]
        batches = defaultdict(list)
        for index, lb in enumerate(letterboxes):
            batches[lb.input_size].append(index)
        predictions = {}
        for indices in batches.values():
            batch = np.stack([resize_and_pad(images[i], letterboxes[i]) for i in indices])
            for index, detections in zip(indices, run_network(self._network, batch), strict=True):
                predictions[index] = predict_from_letterbox(
                    detections,
                    letterboxes[index],
                    self.metadata.metainfo.keypoint_counts,
                    self.metadata.settings,
                )
        return [predictions[index] for index in range(len(images))]

    def draw(
        self, image: np.ndarray, prediction: Prediction, draw_objects: bool = False
    ) -> np.ndarray:
        """Draws the poses of an image as KAPAOVisualizer does.

        Args:
            image: Image, as for :meth:`__call__`.
            prediction: Prediction of the image.
            draw_objects: Whether to show pose objects, keypoint objects and fused poses side by
                side.

        Returns:
            The picture, BGR uint8. A single panel is as large as the image.
        """
        layers = Layers(stages=draw_objects)
        return draw_prediction(as_bgr(image), prediction, self._style, layers)

    def predict_file(
        self, path: Path, draw_objects: bool = False
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Predicts an image file.

        Args:
            path: Path of the image.
            draw_objects: As in :meth:`draw`.

        Returns:
            The :meth:`Prediction.to_dict` of the image, and the picture of :meth:`draw`.

        Raises:
            InputError: If the file is missing or not an image.
        """
        image = read_image(path)
        (prediction,) = self([image])
        numbers = prediction.to_dict(
            str(path),
            image.shape[1::-1],
            self.metadata.metainfo.keypoint_names,
            self.metadata.metainfo.categories,
        )
        return numbers, self.draw(image, prediction, draw_objects)


def run_network(network: Network, batch: np.ndarray) -> list[Detections]:
    """Detects the objects of a batch.

    Args:
        network: Network of an exported model.
        batch: Network inputs, BGR (N, H, W, 3) uint8.
    """
    outputs = network(batch)
    return split_by_image([outputs[name] for name in OUTPUT_NAMES], len(batch))


def _open_onnx(path: Path, precision: str, threads: int | None) -> tuple[str | None, Network]:
    """Returns the metadata (JSON) and the network of an ONNX file."""
    if precision != 'float32':
        raise InputError(f'onnxruntime has float32 only, not {precision}; export to OpenVINO')
    onnxruntime = _import('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: onnxruntime's choice
    providers = [
        (name, settings)
        for name, settings in PROVIDERS.items()
        if name in onnxruntime.get_available_providers()
    ]
    try:
        session = onnxruntime.InferenceSession(path, options, providers)
    except Exception as error:  # onnxruntime's errors have no common base class
        raise _no_model(path, error) from error
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {'images': images}), strict=True))

    return session.get_modelmeta().custom_metadata_map.get(KEY), run


def _open_openvino(path: Path, precision: str, threads: int | None) -> tuple[str | None, Network]:
    """Returns the metadata (JSON) and the network of an OpenVINO file."""
    if precision not in PRECISIONS:
        raise InputError(f'precision {precision} is not one of {", ".join(PRECISIONS)}')
    openvino = _import('openvino')
    settings = {'INFERENCE_PRECISION_HINT': PRECISIONS[precision]}  # OpenVINO's default may be bf16
    if threads:
        settings['INFERENCE_NUM_THREADS'] = threads
    core = openvino.Core()
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, 'CPU', settings)
    except RuntimeError as error:
        raise _no_model(path, error) from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = compiled(images).items()
        return {name: values for output, values in outputs for name in output.names}

    metadata = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    return metadata, run


BACKENDS = {'.onnx': _open_onnx, '.xml': _open_openvino}


def _import(backend: str) -> ModuleType:
    try:
        return import_module(backend)
    except ImportError as error:
        raise InputError(f'{backend} is not installed: pip install {backend}') from error


def _no_model(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[-1]  # the lines before tell where in OpenVINO
    return InputError(f'{path.absolute()} cannot be read as a model: {reason}')


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m kapao_mm.deploy.runtime',
        description='Predict poses in images with an exported model, without torch: a picture and '
        'a JSON file for each',
    )
    parser.add_argument('model', help='exported model, .onnx or .xml')
    add_image_options(parser, 'outputs/runtime')
    parser.add_argument(
        '--input-size', type=int, help="long side of the network input, px [the model's]"
    )
    parser.add_argument(
        '--precision', choices=list(PRECISIONS), default='float32', help='[%(default)s]'
    )
    parser.add_argument('--threads', type=int, help="of the CPU [the backend's choice]")
    return parser.parse_args()


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Loads the model and returns a function that predicts and draws an image file."""
    runtime = KAPAORuntime(args.model, args.precision, args.threads, args.input_size)
    return partial(runtime.predict_file, draw_objects=args.objects)


def main() -> None:
    """Predicts and draws the images of the command line one by one."""
    args = parse_args()
    if not predict_files(args.images, args.out_dir, partial(load_predictor, args)):
        sys.exit(1)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
