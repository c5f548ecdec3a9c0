# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts poses with an exported model, using numpy, OpenCV and onnxruntime or openvino."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kapao_mm.apis.predictor import Predictor
from kapao_mm.apis.result import Result
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import letterbox
from kapao_mm.structures import OUTPUT_NAMES, Detections, InferenceSettings, split_by_image

from .metadata import KEY, ModelMetadata

Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # images (N, H, W, 3) -> outputs by name

RAISED = ('pose_score_thr', 'keypoint_score_thr')  # settings in the graph that can be raised
FREE = ('fusion_score_thr', 'fusion_distance')  # settings that are not in the graph
PRECISIONS = {'float32': 'f32', 'bfloat16': 'bf16'}  # with OpenVINO's names
# TensorFloat-32 is switched off, because it is less precise than float32.
PROVIDERS = {'CUDAExecutionProvider': {'use_tf32': '0'}, 'CPUExecutionProvider': {}}


class KAPAORuntime(Predictor):
    """An exported model (``kapao export``) that predicts poses in images, videos and streams.

    Neither torch nor MMPose is needed. Calling it is the same as :meth:`predict`.

    Args:
        model_file: Path of the model: ``.onnx`` for onnxruntime, which uses a GPU if it can, or
            ``.xml`` (with its ``.bin`` beside it) for openvino.
        precision: Precision of the computation, ``float32`` or, with openvino, ``bfloat16``.
        threads: Number of CPU threads. None leaves the choice to the backend.
        input_size: Longer side of the network input, px, a multiple of 64. None takes that of the
            model's config.

    Attributes:
        metadata: Metadata of the model.

    Raises:
        InputError: If the backend is not installed or lacks the precision, ``model_file`` is
            missing, cannot be read or was not exported by KAPAO-MM, or ``threads`` or
            ``input_size`` is wrong.

    Examples:
        >>> runtime = KAPAORuntime('kapao_s.onnx')
        >>> for result in runtime.predict(['a.jpg', 'b.jpg']):
        ...     result.save('outputs/')
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
            raise InputError(
                f'{path} is not an exported model: give a file {" or ".join(BACKENDS)}'
            )
        if not path.is_file():
            raise InputError(f'model file {path.absolute()} does not exist')
        if threads is not None and threads < 1:
            raise InputError(f'threads must be at least 1, got {threads}')
        metadata, self._network = BACKENDS[path.suffix](path, precision, threads)
        self.metadata = ModelMetadata.from_json(metadata, str(path))
        self.metainfo = self.metadata.metainfo
        self.settings = self.metadata.settings
        self.square_input = self.metadata.square_input
        self.input_size = self.metadata.input_size if input_size is None else input_size
        letterbox((1, 1), self.input_size)  # refuses a wrong size now instead of at each image

    def __call__(self, inputs: Any, **options: Any) -> list[Result] | Iterator[Result]:
        """Predicts the poses of images, videos and streams, see :meth:`predict`."""
        return self.predict(inputs, **options)

    def change_settings(self, **changes: float) -> InferenceSettings:
        """Returns the inference settings with some changed.

        Those of suppression are in the graph of the file: its score thresholds can be raised
        afterwards, the others cannot be changed.

        Raises:
            InputError: If a setting is unknown, has no valid value, or is fixed by the file.
        """
        changed = super().change_settings(**changes)
        for name in changes:
            old, new = getattr(self.settings, name), getattr(changed, name)
            if not (name in FREE or new == old or (name in RAISED and new > old)):
                limit = f'at least {old}' if name in RAISED else f'{old}'
                raise InputError(
                    f'{name} is {limit} in this exported model, got {new}: export it again with '
                    f'--cfg-options model.test_cfg.{self.metadata.use}.{name}={new}'
                )
        return changed

    def run_network(self, batch: np.ndarray, settings: InferenceSettings) -> list[Detections]:
        """Detects the objects of a batch with the settings in the file, see :class:`Predictor`."""
        return run_network(self._network, batch)


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
