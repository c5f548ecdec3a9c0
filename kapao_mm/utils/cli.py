# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines what command-line tools share: their flags, and how they end at an error.

Importing this module imports neither torch nor MM, so that ``--help`` is fast.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kapao_mm.errors import InputError

PRECISIONS = ('float32', 'bfloat16', 'float16')  # precisions of the network in torch


class OptionText(str):
    """Unconverted value of a ``--cfg-options`` entry; ``load_config`` converts it."""


class ConfigOptions(argparse.Action):
    """Collects KEY=VALUE texts in a dict like MMEngine's DictAction, without type conversion."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        """Adds the options of one flag."""
        options = dict(getattr(namespace, self.dest))
        for text in values:
            key, equals, value = text.partition('=')
            if not equals:
                parser.error(f'{option_string} {text}: give KEY=VALUE')
            options[key] = OptionText(value)
        setattr(namespace, self.dest, options)


def add_config_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds ``--cfg-options``, whose value is passed to ``kapao_mm.utils.config.load_config``.

    Args:
        parser: Parser of the tool.
        example: Example of KEY=VALUE pairs for the help text.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help=f'replace config values, as in: {example}',
    )


def add_run_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds the flags that training and testing share, with the same names as in MMPose's tools.

    Args:
        parser: Parser of the tool.
        example: Example of KEY=VALUE for the help text.
    """
    parser.add_argument('--work-dir', help='where logs and checkpoints go [work_dirs/CONFIG]')
    parser.add_argument('--show-dir', help='draw predictions of the evaluation into this directory')
    parser.add_argument('--interval', type=positive, default=1, help='draw every n-th image [1]')
    add_config_options(parser, f'data_root=DIR input_size=640 {example}')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes that work together, as tools/dist_*.sh set it [none]',
    )
    # torch.distributed.launch, the predecessor of torchrun, passes this flag to every tool.
    parser.add_argument('--local_rank', '--local-rank', help=argparse.SUPPRESS)


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Adds the flags of a model that predicts, the arguments of :func:`load_predictor`."""
    parser.add_argument(
        '--model',
        '--checkpoint',
        required=True,
        metavar='FILE',
        help='checkpoint, or exported model (.onnx, .xml), which needs no torch',
    )
    parser.add_argument('--config', help='config of the checkpoint [the one inside it]')
    parser.add_argument('--device', help='cpu, cuda:0 ... [a GPU if there is one]')
    parser.add_argument('--amp', action='store_true', help='half precision; bfloat16 on a CPU')
    parser.add_argument('--threads', type=int, help='threads of the CPU [as many as cores]')


def positive(text: str) -> int:
    """Converts a text to an integer of at least 1; a type for argparse."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def input_shape(text: str) -> tuple[int, int]:
    """Converts ``896x1280`` (h x w), or ``1280`` for a square, to (h, w) px; a type for argparse.

    Raises:
        argparse.ArgumentTypeError: If the text has another form, or a side is not a multiple of 64.
    """
    from kapao_mm.functional.letterbox import INPUT_DIVISOR  # imports OpenCV, which is slow

    sides = text.split('x') * (1 if 'x' in text else 2)
    if len(sides) != 2 or not all(
        side.isdecimal() and int(side) and not int(side) % INPUT_DIVISOR for side in sides
    ):
        raise argparse.ArgumentTypeError(
            f'{text}: give multiples of {INPUT_DIVISOR} px, 1280 or 896x1280'
        )
    height, width = map(int, sides)
    return height, width


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Ends a tool with a one-line message instead of a traceback for an :class:`InputError`.

    With several processes only the first one to fail prints its message, see :func:`_take_turns`.
    """
    try:
        yield
    except InputError as error:
        _take_turns(first=True)
        # The message of a dataloader worker starts with the worker's traceback; that is removed.
        sys.exit(f'error: {str(error).rpartition("InputError: ")[2].strip()}')
    except Exception:
        _take_turns(first=False)
        raise


def _take_turns(first: bool) -> None:
    """Delays the exit of a process so that the one with the most useful error exits first.

    The launcher kills the other processes shortly after the first exit. Processes with an
    InputError go first, because the others may fail only because they lost contact to them. Among
    equals the first process of a machine goes first.

    Args:
        first: Whether this process has an InputError.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        turn = (0 if first else 2) + (os.environ.get('LOCAL_RANK', '0') != '0')
        time.sleep(3 * turn)  # seconds
