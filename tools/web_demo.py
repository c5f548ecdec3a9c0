# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Serves a page in the browser that predicts uploads: tools/web_demo.py --model FILE."""

import argparse
from pathlib import Path

from kapao_mm.utils.cli import add_model_options, exit_on_input_error


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Predict poses in images and videos that are uploaded to a page in the browser'
    )
    add_model_options(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to serve; 0.0.0.0 lets other computers use the page [%(default)s]',
    )
    parser.add_argument('--port', type=int, default=7860, help='0: a free one [%(default)s]')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # before the slow imports below, so that --help is fast

from kapao_mm.apis import load_predictor


def main() -> None:
    """Serves the page until Ctrl-C."""
    args = parse_args()
    from kapao_mm.web.page import listen, serve  # raises an InputError without Gradio

    with listen(args.host, args.port) as listener:  # before the model, which takes seconds
        predictor = load_predictor(
            args.model, args.config, device=args.device, amp=args.amp, threads=args.threads
        )
        serve(predictor, Path(args.model).name, listener)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
