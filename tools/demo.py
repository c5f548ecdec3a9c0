# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Predicts poses in images, videos and streams: tools/demo.py SOURCE... --model FILE."""

import argparse
import signal
import sys
from pathlib import Path

from kapao_mm.utils.cli import (
    add_config_options,
    add_model_options,
    exit_on_input_error,
    positive,
)

SETTINGS = {  # flags of the inference settings, with what they are
    'pose-score-thr': 'minimum score of a pose',
    'pose-iou-thr': 'IoU above which the weaker of two poses is dropped',
    'keypoint-score-thr': 'minimum score of a keypoint object',
    'keypoint-iou-thr': 'IoU above which the weaker of two keypoint objects is dropped',
    'fusion-score-thr': 'minimum score of a pose that takes part in fusion',
    'fusion-distance': 'largest distance of a fused keypoint object, px; 0: no fusion',
}
LAYERS = ('boxes', 'skeleton', 'keypoints', 'scores', 'ids', 'opacity')  # drawn by default
MORE_LAYERS = ('names', 'legend', 'pose-objects', 'keypoint-objects')
FORMATS = ('pictures', 'json', 'jsonl', 'csv', 'coco')


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Predict poses in images, videos and streams, and write pictures (a video of '
        'a video) and JSON',
        epilog='Defaults are in brackets. A setting without one has the default of the model.',
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='SOURCE',
        help='images, videos, folders, patterns, URLs, streams (rtsp://...), or webcam, webcam:1',
    )
    model = parser.add_argument_group('model')
    add_model_options(model)
    add_config_options(model, 'input_size=640 model.test_cfg.demo.max_objects=50')
    model.add_argument('--batch-size', type=int, default=1, help='images at once [%(default)s]')
    model.add_argument('--input-size', type=int, help='longer side of the network input, px')

    found = parser.add_argument_group('what is found')
    for flag, text in SETTINGS.items():
        names = [f'--{flag}', *(['--score-thr'] if flag == 'pose-score-thr' else [])]
        found.add_argument(*names, type=float, metavar='X', help=text)
    found.add_argument('--categories', nargs='+', metavar='NAME', help='only these [all]')

    video = parser.add_argument_group('video')
    video.add_argument('--track', action='store_true', help='follow people from frame to frame')
    video.add_argument('--smooth', action='store_true', help='--track, and smooth keypoints')
    video.add_argument(
        '--every', type=positive, default=1, metavar='N', help='every n-th frame [1]'
    )
    video.add_argument('--fps', type=float, metavar='X', help='about X frames of each second')

    output = parser.add_argument_group('output')
    output.add_argument(
        '--out-dir', type=Path, default='outputs/predict', help='folder of results [%(default)s]'
    )
    output.add_argument(
        '--write',
        nargs='+',
        choices=FORMATS,
        default=('pictures', 'json'),
        help='what is written: a picture (a video of a video) and a JSON file for each source, '
        'or one file for all [pictures json]',
    )
    output.add_argument('--show', action='store_true', help='show pictures in a window; q ends')
    output.add_argument(
        '--draw', nargs='+', choices=MORE_LAYERS, default=(), help='draw these as well'
    )
    output.add_argument('--hide', nargs='+', choices=LAYERS, default=(), help='do not draw these')
    output.add_argument(
        '--objects',
        action='store_true',
        help='draw pose objects, keypoint objects and fused poses side by side',
    )
    output.add_argument('--hide-faces', action='store_true', help='make faces unrecognizable')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.apis import load_predictor
from kapao_mm.apis.predict_files import predict_files
from kapao_mm.apis.predictor import Predictor
from kapao_mm.errors import InputError
from kapao_mm.functional.drawing_style import Layers
from kapao_mm.media.inputs import open_inputs


def load_model(args: argparse.Namespace) -> Predictor:
    """Loads the model of the command line.

    Raises:
        InputError: If it cannot be loaded.
    """
    config = args.config
    if args.cfg_options:
        if config is None:
            raise InputError('--cfg-options needs --config')
        from kapao_mm.utils.config import load_config

        config = load_config(config, args.cfg_options)
    return load_predictor(
        args.model, config, device=args.device, amp=args.amp, threads=args.threads
    )


def choose_layers(args: argparse.Namespace) -> Layers:
    """Returns what the command line wants to be drawn."""
    shown = {name.replace('-', '_'): True for name in args.draw}
    hidden = dict.fromkeys(args.hide, False)
    return Layers(**shown, **hidden, stages=args.objects, hide_faces=args.hide_faces)


def main() -> None:
    """Predicts all sources; the exit code is 1 if one fails, and 130 after Ctrl-C."""
    args = parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # files are completed then, too
    sources = open_inputs(args.sources, every=args.every, fps=args.fps)
    predictor = load_model(args)
    names = [flag.replace('-', '_') for flag in SETTINGS]
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    options = predictor.options(
        batch_size=args.batch_size,
        track=args.track or args.smooth,
        smooth=args.smooth,
        categories=args.categories,
        input_size=args.input_size,
        **settings,
    )
    counts = predict_files(
        predictor, sources, options, args.out_dir, args.write, choose_layers(args), args.show
    )
    print(counts.summary())
    if counts.done:
        print(f'results are in {args.out_dir.absolute()}')
    if counts.interrupted:
        print('interrupted: the files are complete up to here', file=sys.stderr)
        sys.exit(130)  # as a shell says it of Ctrl-C
    if counts.errors:
        sys.exit(f'{counts.errors} failed: see the errors above')


if __name__ == '__main__':
    with exit_on_input_error():
        main()
