# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Exports models to ONNX, OpenVINO and TorchScript files, with their metadata."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from kapao_mm.datasets.metainfo import check_keypoint_counts, read_metainfo
from kapao_mm.errors import InputError
from kapao_mm.functional.letterbox import INPUT_DIVISOR
from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.task_modules.postprocess import class_nms
from kapao_mm.structures import OUTPUT_NAMES, Metainfo

try:
    import onnx_ir
    from onnxscript import BOOL, FLOAT, INT64
    from onnxscript import opset18 as op
    from torch.export import Dim
    from torch.library import custom_op  # noqa: F401
    from torch.onnx import ONNXProgram
except ImportError as error:
    raise InputError(
        f'export needs torch 2.6 or later (installed: {torch.__version__}) and onnxscript 0.7: '
        "pip install 'kapao-mm[export]'"
    ) from error
from kapao_mm.utils.atomic_file import atomic_path
from kapao_mm.utils.config import inner_datasets, letterbox_settings

from .formats import MIN_OPSET, TENSORRT_CANDIDATES, TENSORRT_MIN_SIZE
from .graph import ExportGraph
from .metadata import KEY, ModelMetadata
from .quantize import save_openvino
from .runtime import Network

EXTRA_FILE = f'{KEY}.json'  # name of the metadata in a TorchScript file
EXAMPLE = torch.zeros(2, 256, 320, 3, dtype=torch.uint8)  # input that is traced


def make_metadata(cfg: Config, model: KAPAO, use: str) -> ModelMetadata:
    """Makes the metadata of an exported model.

    Args:
        cfg: Config of the model. Dataset and input size are taken from its ``test_dataloader``.
        model: Model that was built from the config.
        use: Key of ``model.settings``, whose thresholds are exported.

    Raises:
        InputError: If dataset and model have different keypoints, or the pipeline has no Letterbox.
    """
    dataset, _ = next(inner_datasets(cfg.test_dataloader.dataset))
    info = read_metainfo(dataset.metainfo)
    check_keypoint_counts(model.head.keypoint_counts, info, 'test_dataloader')
    input_size, square_input = letterbox_settings(cfg)
    return ModelMetadata(
        config=Path(cfg.filename).stem,
        use=use,
        settings=model.settings[use],
        input_size=input_size,
        square_input=square_input,
        metainfo=Metainfo.from_dataset_meta(info),
    )


def write_onnx(model: KAPAO, metadata: ModelMetadata, path: Path, opset: int = MIN_OPSET) -> None:
    """Writes a file for onnxruntime.

    Args:
        model: Model with its final weights, float32.
        metadata: Metadata with the settings to export.
        path: Path of the file.
        opset: Version of ONNX's operators, from ``MIN_OPSET`` to ``MAX_OPSET`` of :mod:`.formats`.
    """
    program = _trace_onnx(ExportGraph(model, metadata.settings), metadata, opset)
    with _whole_file(path) as temporary:
        program.save(temporary)


def write_tensorrt(
    model: KAPAO, metadata: ModelMetadata, path: Path, opset: int = MIN_OPSET
) -> None:
    """Writes an ONNX file that TensorRT can build an engine from; see :func:`write_onnx`.

    Each image has the ``TENSORRT_CANDIDATES`` candidates with the highest scores; others are
    dropped. The file was tested with onnxruntime, but not with TensorRT yet.
    """
    graph = ExportGraph(model, metadata.settings, num_candidates=TENSORRT_CANDIDATES)
    program = _trace_onnx(graph, metadata, opset, TENSORRT_MIN_SIZE)
    with _whole_file(path) as temporary:
        program.save(temporary)


def write_openvino(
    model: KAPAO, metadata: ModelMetadata, path: Path, opset: int = MIN_OPSET
) -> None:
    """Writes a file for OpenVINO with float32 weights in a second file beside it.

    Arguments are as in :func:`write_onnx`.

    Raises:
        InputError: If openvino is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise InputError('openvino is not installed: pip install openvino') from error
    program = _trace_onnx(ExportGraph(model, metadata.settings), metadata, opset)
    # convert_model is not used, because it reports its use to OpenVINO's makers.
    converted = openvino.Core().read_model(program.model_proto.SerializeToString())
    converted.set_rt_info(metadata.to_json(), KEY)
    save_openvino(converted, path)


def write_torchscript(model: KAPAO, metadata: ModelMetadata, path: Path) -> None:
    """Writes a file for torch; torchvision must be imported before it is loaded.

    Args:
        model: Model with its final weights, float32.
        metadata: Metadata with the settings to export.
        path: Path of the file.
    """
    with torch.no_grad(), warnings.catch_warnings(action='ignore'):  # deprecation warnings
        graph = ExportGraph(model, metadata.settings, torch.jit.script(class_nms)).eval()
        traced = torch.jit.trace(graph, EXAMPLE, check_trace=False)
        # An open file is passed, because with a path torch aborts the process on a full disk.
        with _whole_file(path) as temporary, temporary.open('wb') as file:
            torch.jit.save(traced, file, _extra_files={EXTRA_FILE: metadata.to_json()})


WRITERS = {  # with the keys of FORMATS
    'onnx': write_onnx,
    'openvino': write_openvino,
    'torchscript': write_torchscript,
    'tensorrt': write_tensorrt,
}


def open_torchscript(path: Path) -> tuple[str, Network]:
    """Returns the metadata (JSON) and the network of a file of :func:`write_torchscript`."""
    extra = {EXTRA_FILE: ''}
    with warnings.catch_warnings(action='ignore'):
        module = torch.jit.load(path, _extra_files=extra)

    @torch.no_grad()
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = module(torch.from_numpy(images))
        return {name: x.numpy() for name, x in zip(OUTPUT_NAMES, outputs, strict=True)}

    return extra[EXTRA_FILE].decode(), run


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Does what :func:`atomic_path` does, for writers that raise a RuntimeError when they fail."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except RuntimeError as error:
        raise InputError(f'{path.absolute()} cannot be written: {error}') from error


def _trace_onnx(
    graph: ExportGraph, metadata: ModelMetadata, opset: int, min_size: int = INPUT_DIVISOR
) -> ONNXProgram:
    height, width = (
        INPUT_DIVISOR * Dim(name, min=min_size // INPUT_DIVISOR) for name in ('h', 'w')
    )
    with warnings.catch_warnings(action='ignore'):  # of functions that the exporter calls
        program = torch.onnx.export(
            graph.eval(),
            (EXAMPLE,),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=['images'],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes=({0: Dim('n'), 1: height, 2: width},),
            custom_translation_table={torch.ops.kapao.class_nms.default: _onnx_class_nms},
        )
    program.model.metadata_props[KEY] = metadata.to_json()
    return program


def _onnx_class_nms(
    bboxes: FLOAT,
    scores: FLOAT,
    labels: INT64,
    num_classes: int,
    iou_thr: float,
    max_objects: int,
) -> BOOL:
    """Implements :func:`class_nms` with ONNX's operators.

    It keeps at most ``max_objects`` boxes of each class, and then at most ``max_objects`` of each
    image.
    """
    axis = op.Constant(value_ints=[1])
    classes = op.Constant(value=onnx_ir.tensor([[[i] for i in range(num_classes)]]))  # (1, L, 1)
    of_class = op.Cast(op.Equal(op.Unsqueeze(labels, axis), classes), to=onnx_ir.DataType.FLOAT)
    chosen = op.NonMaxSuppression(
        bboxes,
        op.Mul(op.Unsqueeze(scores, axis), of_class),  # (N, L, k)
        op.Constant(value_ints=[max_objects]),
        op.Constant(value_floats=[iou_thr]),
        op.Constant(value_floats=[0.0]),
    )  # (M, 3) image, class, box
    image_and_box = op.Constant(value_ints=[0, 2])
    indices = op.Gather(chosen, image_and_box, axis=1)  # (M, 2)
    nothing = op.ConstantOfShape(op.Shape(scores), value=onnx_ir.tensor([0]))  # (N, k)
    ones = op.Expand(op.Constant(value_ints=[1]), op.Shape(indices, start=0, end=1))
    kept = op.ScatterND(nothing, indices, ones)
    count = op.CumSum(kept, op.Constant(value_int=1))
    limit = op.Constant(value_int=max_objects)
    return op.And(op.Cast(kept, to=onnx_ir.DataType.BOOL), op.LessOrEqual(count, limit))
