# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures the time and memory of inference and training, and prints a table."""

import argparse
from importlib import import_module
from pathlib import Path

from kapao_mm.utils.atomic_file import check_writable
from kapao_mm.utils.cli import (
    PRECISIONS,
    add_config_options,
    exit_on_input_error,
    input_shape,
    positive,
)

BACKENDS = ('torch', 'torch-compile', 'onnxruntime', 'openvino', 'torchscript')
SWITCHES = (
    *('channels_last', 'bfloat16', 'float16', 'checkpoint_activations', 'compile_network'),
    'image_cache',
)
MODULES = {  # of kapao_mm.analysis
    'predict': 'predict_speed',
    'postprocess': 'postprocess_speed',
    'train': 'train_speed',
    'train-parts': 'train_parts',
    'video': 'video_speed',
    'tracking': 'tracking',
}


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add_command(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f'{text}.')
        command.add_argument('--out', type=Path, help='write the figures to this file (.json)')
        return command

    add_predict_options(add_command('predict', 'Measure the parts of inference for each backend'))
    add_postprocess_options(
        add_command('postprocess', 'Measure NMS and fusion by the number of people in an image')
    )
    add_train_options(add_command('train', 'Measure training with each switch for speed or memory'))
    add_part_options(add_command('train-parts', 'Measure the parts of data loading, and the loss'))
    add_video_options(
        add_command('video', 'Compare predicting a video with the network alone, and watch memory')
    )
    add_tracking_options(
        add_command('tracking', 'Measure how well and how fast people are tracked')
    )
    return parser.parse_args()


def add_number(parser: argparse.ArgumentParser, flag: str, default: int, text: str) -> None:
    """Adds a flag for a positive number."""
    parser.add_argument(flag, type=positive, default=default, help=f'{text} [{default}]')


def add_use(parser: argparse.ArgumentParser) -> None:
    """Adds the flag for the use of the model."""
    parser.add_argument(
        '--use',
        choices=['evaluation', 'demo'],
        default='evaluation',
        help='use whose thresholds apply [%(default)s]',
    )


def add_training_data(parser: argparse.ArgumentParser) -> None:
    """Adds the config and the flags for its training images."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--input-size', type=positive, help="px [the config's]")
    parser.add_argument('--real', action='store_true', help="the config's images, not drawn ones")
    add_config_options(parser, 'data_root=DIR train_dataloader.num_workers=4')


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``predict``."""
    add_use(parser)
    parser.add_argument(
        'files',
        nargs='+',
        metavar='FILE',
        help='config files, each followed by its checkpoint (.pth; random weights without one) and '
        'its exported models (.onnx, .xml, .pt), which are measured instead of being made here',
    )
    parser.add_argument(
        '--input-sizes',
        nargs='+',
        type=input_shape,
        help="px, as 1280 for a square, or 896x1280 (h x w) [the config's, a square]",
    )
    parser.add_argument('--batch-sizes', nargs='+', type=positive, default=[1], help='[1]')
    parser.add_argument(
        '--precisions',
        nargs='+',
        choices=(*PRECISIONS, 'int8'),
        default=['float32'],
        help='[float32]; int8 is for openvino, calibrated on the images',
    )
    parser.add_argument(
        '--backends', nargs='+', choices=BACKENDS, default=['torch'], help='[torch]'
    )
    parser.add_argument('--images', help='a folder, of which the first 32 are taken [drawn people]')
    add_number(parser, '--people', 10, 'in an image of a synthetic crowd')
    add_number(parser, '--runs', 20, 'measured runs')
    parser.add_argument(
        '--threads',
        nargs='+',
        type=positive,
        default=[None],
        help="of the CPU; several numbers are measured one after the other [each library's choice]",
    )


def add_postprocess_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``postprocess``."""
    add_use(parser)
    parser.add_argument('config', help='config file of a model with one category')
    parser.add_argument(
        '--people',
        type=positive,
        nargs='+',
        default=(1, 2, 5, 10, 20, 40, 60, 80, 100),
        help='in the image of each synthetic crowd [1 to 100]',
    )
    parser.add_argument(
        '--golden',
        type=Path,
        help='measure the crowds of this file (.npz) as well, arrays NAME_pred of decoded rows: '
        'center, size, objectness, classes, keypoints',
    )
    add_number(parser, '--runs', 50, 'measured runs')


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``train``."""
    add_training_data(parser)
    add_number(parser, '--iters', 10, 'measured iterations')
    parser.add_argument('--batch-size', type=positive, help="images of an iteration [the config's]")
    parser.add_argument(
        '--switches',
        nargs='+',
        choices=SWITCHES,
        help='what to measure besides the baseline [all that run on this machine]',
    )


def add_part_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``train-parts``."""
    add_training_data(parser)
    add_number(parser, '--samples', 100, 'measured samples')
    add_number(parser, '--batch-size', 16, 'images of the loss')
    parser.add_argument(
        '--loss-size', type=input_shape, default=(320, 320), help='its input, px (h x w) [320]'
    )
    add_number(parser, '--people', 3, 'in an image of the loss')
    add_number(parser, '--runs', 30, 'measured runs of the loss')


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``video``."""
    parser.add_argument('video', help='video file')
    parser.add_argument(
        'models', nargs='+', metavar='MODEL', help='checkpoints (.pth) and exported models'
    )
    parser.add_argument('--amp', action='store_true', help='half precision; bfloat16 on a CPU')
    add_number(parser, '--batch-size', 1, 'frames of a batch')
    parser.add_argument('--input-size', type=positive, help="longer side, px [the model's]")
    parser.add_argument('--threads', type=positive, help="of the CPU [each library's choice]")
    add_number(parser, '--repeat', 1, 'times that the video is predicted')
    parser.add_argument(
        '--write',
        nargs='+',
        default=('pictures', 'json'),
        choices=('pictures', 'json', 'jsonl', 'csv', 'coco'),
        help='what is written [pictures json]',
    )
    parser.add_argument('--track', action='store_true', help='follow people')


def add_tracking_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``tracking``."""
    parser.add_argument(
        '--model', help='checkpoint or exported model that predicts the toy videos as well [none]'
    )
    parser.add_argument('--config', help='config of the checkpoint [the one inside]')
    parser.add_argument(
        '--photos',
        nargs=2,
        type=Path,
        metavar=('JSON', 'FOLDER'),
        help='COCO annotations and images, over which a camera is moved [none]',
    )
    add_number(parser, '--videos', 4, 'of each source')
    add_number(parser, '--frames', 120, 'of a video')


def main() -> None:
    """Runs a sub-command, and writes its figures and plot."""
    options = vars(parse_args())
    command, out = options.pop('command'), options.pop('out')
    if out:
        check_writable(out, ['.json'])
    from kapao_mm import register_all_modules
    from kapao_mm.analysis.report import write_report

    register_all_modules()
    report, plot = import_module(f'kapao_mm.analysis.{MODULES[command]}').benchmark(**options)
    if out:
        write_report(report, out, plot)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
