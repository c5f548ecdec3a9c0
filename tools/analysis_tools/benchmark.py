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
}


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add_command(
        name: str, text: str, *parents: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f'{text}.', parents=parents)
        command.add_argument('--out', type=Path, help='write the figures to this file (.json)')
        return command

    use = argparse.ArgumentParser(add_help=False)
    use.add_argument(
        '--use',
        choices=['evaluation', 'pictures'],
        default='evaluation',
        help='whose thresholds apply [%(default)s]',
    )
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument('config', help='config file')
    training.add_argument('--input-size', type=positive, help="px [the config's]")
    training.add_argument('--real', action='store_true', help="the config's images, not drawn ones")
    add_config_options(training, 'data_root=DIR train_dataloader.num_workers=4')

    predict = add_command('predict', 'Measure inference, part by part and for each backend', use)
    predict.add_argument(
        'files',
        nargs='+',
        metavar='FILE',
        help='config files, each followed by its checkpoint (.pth; random weights without one) and '
        'its exported models (.onnx, .xml, .pt), which are measured instead of being made here',
    )
    predict.add_argument(
        '--input-sizes',
        nargs='+',
        type=input_shape,
        help="px, as 1280 for a square, or 896x1280 (h x w) [the config's, a square]",
    )
    predict.add_argument('--batch-sizes', nargs='+', type=positive, default=[1], help='[1]')
    predict.add_argument(
        '--precisions', nargs='+', choices=PRECISIONS, default=['float32'], help='[float32]'
    )
    predict.add_argument(
        '--backends', nargs='+', choices=BACKENDS, default=['torch'], help='[torch]'
    )
    predict.add_argument(
        '--images', help='a folder, of which the first 32 are taken [drawn people]'
    )
    predict.add_argument(
        '--people', type=positive, default=10, help='in an image of a synthetic crowd [%(default)s]'
    )
    predict.add_argument('--runs', type=positive, default=20, help='measured runs [%(default)s]')
    predict.add_argument('--threads', type=positive, help="of the CPU [each library's choice]")

    postprocess = add_command(
        'postprocess', 'Measure NMS and fusion by the number of people in an image', use
    )
    postprocess.add_argument('config', help='config file of a model with one category')
    postprocess.add_argument(
        '--people',
        type=positive,
        nargs='+',
        default=(1, 2, 5, 10, 20, 40, 60, 80, 100),
        help='in the image of each synthetic crowd [1 to 100]',
    )
    postprocess.add_argument(
        '--golden',
        type=Path,
        help='measure the crowds of this file (.npz) as well, arrays NAME_pred of decoded rows: '
        'center, size, objectness, classes, keypoints',
    )
    postprocess.add_argument(
        '--runs', type=positive, default=50, help='measured runs [%(default)s]'
    )

    train = add_command('train', 'Measure training with each switch for speed or memory', training)
    train.add_argument(
        '--iters', type=positive, default=10, help='measured iterations [%(default)s]'
    )
    train.add_argument('--batch-size', type=positive, help="images of an iteration [the config's]")
    train.add_argument(
        '--switches',
        nargs='+',
        choices=SWITCHES,
        help='what to measure besides the baseline [all that run on this machine]',
    )

    parts = add_command('train-parts', 'Measure the parts of data loading, and the loss', training)
    parts.add_argument(
        '--samples', type=positive, default=100, help='measured samples [%(default)s]'
    )
    parts.add_argument(
        '--batch-size', type=positive, default=16, help='images of the loss [%(default)s]'
    )
    parts.add_argument(
        '--loss-size', type=input_shape, default=(320, 320), help='its input, px (h x w) [320]'
    )
    parts.add_argument(
        '--people', type=positive, default=3, help='in an image of the loss [%(default)s]'
    )
    parts.add_argument(
        '--runs', type=positive, default=30, help='measured runs of the loss [%(default)s]'
    )
    return parser.parse_args()


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
