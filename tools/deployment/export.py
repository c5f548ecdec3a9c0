# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Exports a model with its post-processing to a file, and compares the file with PyTorch."""

import argparse
from pathlib import Path

from kapao_mm.deploy.formats import (
    FORMATS,
    MAX_OPSET,
    MIN_OPSET,
    TENSORRT_CANDIDATES,
    TENSORRT_MIN_SIZE,
)
from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='tensorrt: an ONNX file and the command that makes an engine of it, for the machine '
        f'with the GPU; at least {TENSORRT_MIN_SIZE}x{TENSORRT_MIN_SIZE} px, and of each image the '
        f'{TENSORRT_CANDIDATES} most confident candidates. The file is compared in onnxruntime; an '
        'engine was not built yet. torchscript: for torch and torchvision alone.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=list(FORMATS), required=True)
    parser.add_argument('--out', type=Path, help='the file [CHECKPOINT.onnx, .xml or .pt]')
    parser.add_argument(
        '--use',
        choices=['pictures', 'evaluation'],
        default='pictures',
        help='whose thresholds of model.test_cfg go into the file [%(default)s]',
    )
    parser.add_argument(
        '--opset',
        type=int,
        choices=range(MIN_OPSET, MAX_OPSET + 1),
        help=f"version of ONNX's operators [{MIN_OPSET}]",
    )
    parser.add_argument(
        '--image', type=Path, help='what to compare file and PyTorch on [a drawing of people]'
    )
    add_config_options(parser, 'input_size=640 model.test_cfg.pictures.pose_score_thr=0.3')
    args = parser.parse_args()
    if args.opset and args.format == 'torchscript':
        parser.error('--opset is for the formats made from ONNX; torchscript is not')
    return args


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

import numpy as np
import torch
import torchvision  # noqa: F401 - TorchScript files need its operators
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample

from kapao_mm import register_all_modules
from kapao_mm.analysis.comparison import compare_objects
from kapao_mm.datasets.toy import draw_scene
from kapao_mm.deploy.export import WRITERS, make_metadata, open_torchscript
from kapao_mm.deploy.runtime import BACKENDS, split_by_image
from kapao_mm.engine import check_output, load_weights
from kapao_mm.functional.letterbox import letterbox, resize_and_pad
from kapao_mm.functional.prediction import DetectedObjects
from kapao_mm.models.kapao import KAPAO
from kapao_mm.models.utils.inference import prepare_for_inference
from kapao_mm.utils.config import load_config
from kapao_mm.utils.image_files import read_image

MAX_POSITION, MAX_SCORE = 0.05, 1e-4  # largest rounding errors: px of the network input, score


def output_path(args: argparse.Namespace) -> Path:
    """Returns the path of the exported file.

    Raises:
        InputError: If the suffix does not fit the format, or the file cannot be written.
    """
    suffix = FORMATS[args.format].suffix
    given = args.checkpoint  # for a URL the file goes to the current folder
    name = Path(given.rpartition('/')[2] if '://' in given else given).with_suffix(suffix)
    if args.format == 'tensorrt':
        name = name.with_stem(f'{name.stem}_tensorrt')
    path = args.out or name
    if path.suffix != suffix:
        raise InputError(f'--out {path}: files for {args.format} end in {suffix}')
    check_output(path, Path(args.checkpoint))
    return path


def example_picture(path: Path | None, input_size: int) -> np.ndarray:
    """Returns a network input for the comparison, (S, S, 3) uint8 BGR.

    It shows the given image, or drawn people without one.
    """
    if path:
        image = read_image(path)
    else:
        image, _ = draw_scene(np.random.default_rng(0), 'crowd', (input_size, input_size))
    return resize_and_pad(image, letterbox(image.shape[1::-1], input_size, square=True))


@torch.no_grad()
def detect(model: KAPAO, picture: np.ndarray, settings: dict[str, float]) -> DetectedObjects:
    """Detects the objects of an image in PyTorch."""
    image = torch.from_numpy(picture).permute(2, 0, 1)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[PoseDataSample()]))
    feats = model.extract_feat(batch['inputs'])
    return model.head.predict(feats, batch['data_samples'], settings)[0]


def compare(path: Path, picture: np.ndarray, expected: DetectedObjects) -> str:
    """Runs the exported file, and compares its detections with those of PyTorch.

    Returns:
        A message with the number of detections and the largest difference.

    Raises:
        InputError: If the difference is larger than rounding errors.
    """
    backend = BACKENDS.get(path.suffix)
    _, network = backend(path, 'float32', None) if backend else open_torchscript(path)
    (found,) = split_by_image(network(picture[None]), 1)
    difference = compare_objects(found, expected)
    if not any(map(len, (found.boxes, found.point_boxes, expected.boxes, expected.point_boxes))):
        return (
            'nothing found, in the file as in PyTorch. Nothing was compared: give --image with '
            'what the model was trained to find'
        )
    counts = f'{len(found.boxes)} poses, {len(found.point_boxes)} keypoint objects'
    apart = f'{difference.position:.1g} px and {difference.score:.1g} of confidence'
    if difference.position > MAX_POSITION or difference.score > MAX_SCORE:
        raise InputError(
            f'{path} was written, but is not the model: it finds {counts}, PyTorch '
            f'{len(expected.boxes)} and {len(expected.point_boxes)}, up to {apart} apart'
        )
    return f'{counts}, at most {apart} from those of PyTorch'


def advise(args: argparse.Namespace, path: Path, input_size: int) -> str:
    """Returns the text on how to use the exported file."""
    advice = FORMATS[args.format].advice
    stem = path.with_suffix('')
    return advice.format(path=path, stem=stem, least=TENSORRT_MIN_SIZE, size=input_size)


def main() -> None:
    """Exports the model, compares the file with PyTorch, and prints the next step."""
    args = parse_args()
    path = output_path(args)
    cfg = load_config(args.config, args.cfg_options)
    register_all_modules()
    model = MODELS.build(cfg.model).eval()
    load_weights(model, args.checkpoint)
    metadata = make_metadata(cfg, model, args.use)
    size = metadata.input_size
    if args.format == 'tensorrt' and size < TENSORRT_MIN_SIZE:
        raise InputError(f'input_size is {size}; for tensorrt it is at least {TENSORRT_MIN_SIZE}')
    picture = example_picture(args.image, size)
    expected = detect(model, picture, metadata.settings)

    prepare_for_inference(model)
    write = WRITERS[args.format]
    write(model, metadata, path, **(dict(opset=args.opset) if args.opset else {}))
    files = [path, path.with_suffix('.bin')] if args.format == 'openvino' else [path]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f'{" and ".join(map(str, files))}: {megabytes:.1f} MB, thresholds for {args.use}')
    print(f'{args.image or "drawn people"}: {compare(path, picture, expected)}')
    print(f'Next: {advise(args, path, size)}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
