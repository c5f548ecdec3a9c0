# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Exports a model with its post-processing to a file, and compares the file with PyTorch."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from kapao_mm.deploy.formats import (
    CALIBRATION_IMAGES,
    FORMATS,
    MAX_OPSET,
    MIN_OPSET,
    TENSORRT_CANDIDATES,
    TENSORRT_MIN_SIZE,
    next_command,
)
from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error, positive


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='tensorrt writes an ONNX file, and prints the command that builds an engine from it '
        f'on a machine with a GPU. Inputs are at least {TENSORRT_MIN_SIZE}x{TENSORRT_MIN_SIZE} px, '
        f'and each image keeps the {TENSORRT_CANDIDATES} candidates with the highest scores. The '
        'file is compared in onnxruntime; building an engine was not tested yet. torchscript needs '
        'only torch and torchvision.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=list(FORMATS), required=True)
    parser.add_argument('--out', type=Path, help='exported file [CHECKPOINT.onnx, .xml or .pt]')
    parser.add_argument(
        '--use',
        choices=['demo', 'evaluation'],
        default='demo',
        help='whose thresholds of model.test_cfg go into the file [%(default)s]',
    )
    parser.add_argument(
        '--opset',
        type=int,
        choices=range(MIN_OPSET, MAX_OPSET + 1),
        help=f"version of ONNX's operators [{MIN_OPSET}]",
    )
    parser.add_argument(
        '--image', type=Path, help='image on which file and PyTorch are compared [drawn people]'
    )
    parser.add_argument(
        '--int8',
        type=Path,
        metavar='FOLDER',
        help='for openvino: 8-bit integers, calibrated on images of this folder',
    )
    parser.add_argument(
        '--int8-images',
        type=positive,
        default=CALIBRATION_IMAGES,
        help='how many of them, evenly spread [%(default)s]',
    )
    add_config_options(parser, 'input_size=640 model.test_cfg.demo.pose_score_thr=0.3')
    args = parser.parse_args()
    if args.opset and args.format == 'torchscript':
        parser.error('--opset is only for formats that are made from ONNX, not for torchscript')
    if args.int8 and args.format != 'openvino':
        parser.error('--int8 is only for openvino')
    return args


def output_path(args: argparse.Namespace) -> Path:
    """Returns the path of the exported file.

    Raises:
        InputError: If the suffix does not fit the format.
    """
    suffix = FORMATS[args.format].suffix
    given = args.checkpoint  # for a URL the file goes to the current folder
    name = Path(given.rpartition('/')[2] if '://' in given else given).with_suffix(suffix)
    if args.format == 'tensorrt':
        name = name.with_stem(f'{name.stem}_tensorrt')
    path = args.out or name
    if path.suffix != suffix:
        raise InputError(f'--out {path}: files for {args.format} end in {suffix}')
    return path


def main() -> None:
    """Exports the model, compares the file with PyTorch, and prints the next step."""
    args = parse_args()
    from mmpose.registry import MODELS

    from kapao_mm import register_all_modules
    from kapao_mm.analysis.exported import check_exported, count_objects, detect, example_input
    from kapao_mm.deploy.export import WRITERS, make_metadata
    from kapao_mm.deploy.quantize import choose_images, import_nncf, quantize
    from kapao_mm.engine import check_output, load_weights
    from kapao_mm.models.utils.inference import prepare_for_inference
    from kapao_mm.utils.config import load_config

    path = output_path(args)
    pictures = []
    if args.int8:
        import_nncf()  # fails now if it is missing, and not after the export
        pictures = choose_images(args.int8, args.int8_images)
    check_output(path, Path(args.checkpoint))
    cfg = load_config(args.config, args.cfg_options)
    register_all_modules()
    model = MODELS.build(cfg.model).eval()
    load_weights(model, args.checkpoint)
    metadata = make_metadata(cfg, model, args.use)
    size = metadata.input_size
    if args.format == 'tensorrt' and size < TENSORRT_MIN_SIZE:
        raise InputError(f'input_size is {size}; for tensorrt it is at least {TENSORRT_MIN_SIZE}')
    image = example_input(args.image, size)
    expected = detect(model, image, metadata.settings)

    prepare_for_inference(model)
    opset = dict(opset=args.opset) if args.opset else {}
    with TemporaryDirectory() as folder:  # of the float32 file that is quantized
        written = Path(folder, path.name) if pictures else path
        WRITERS[args.format](model, metadata, written, **opset)
        report = check_exported(written, image, expected)
        if pictures:
            print(f'Calibrating on {len(pictures)} images of {args.int8} ...', flush=True)
            quantize(written, path, pictures)
            report = f'float32: {report}; int8: {count_objects(path, image)}'
    files = [path, path.with_suffix('.bin')] if args.format == 'openvino' else [path]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f'{" and ".join(map(str, files))}: {megabytes:.1f} MB, thresholds for {args.use}')
    print(f'{args.image or "drawn people"}: {report}')
    print(f'Next: {next_command(args.format, path, size)}')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
