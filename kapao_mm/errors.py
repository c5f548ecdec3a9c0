# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The one error for wrong data, configs and checkpoints, and how the tools print it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What the user gave cannot work; the message names the file, key or id and what to do."""


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Ends a tool with one line instead of a traceback when an :class:`InputError` is raised.

    Of several processes one speaks, see :func:`_take_turns`.
    """
    try:
        yield
    except InputError as error:
        _take_turns(first=True)
        # One from a worker of a dataloader comes with the worker's traceback before it.
        sys.exit(f'error: {str(error).rpartition("InputError: ")[2].strip()}')
    except Exception:
        _take_turns(first=False)
        raise


def _take_turns(first: bool) -> None:
    """Waits for a process that knows better what went wrong, and is ended with the launcher's rest.

    A launcher ends all its processes a moment after one has ended. Of several that fail alike the
    first on its machine is to be heard; and one with an InputError before others, which may fail
    only because they lost it.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        turn = (0 if first else 2) + (os.environ.get('LOCAL_RANK', '0') != '0')
        time.sleep(3 * turn)  # seconds
