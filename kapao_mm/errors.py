# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Error class for wrong data, configs and checkpoints, and how the tools print it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Error in the user's input; the message names the file, key or id and says what to do."""


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
