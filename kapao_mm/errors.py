# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Defines the error for wrong data, configs and checkpoints."""


class InputError(ValueError):
    """Error in the user's input; the message names the file, key or id and says what to do."""
