# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""The one error for wrong data, configs and checkpoints, and how the tools print it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What the user gave cannot work; the message names the file, key or id and what to do."""


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Ends a tool with one line instead of a traceback when an :class:`InputError` is raised."""
    try:
        yield
    except InputError as error:
        # One from a worker of a dataloader comes with the worker's traceback before it.
        sys.exit(f'error: {str(error).rpartition("InputError: ")[2].strip()}')
