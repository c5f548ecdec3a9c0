# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import pytest

from kapao_mm.errors import InputError, exit_on_input_error


@pytest.mark.parametrize(
    'message',
    [
        'image a.jpg does not exist',
        'Caught InputError in DataLoader worker process 0.\nTraceback:\n  ...\n'
        'kapao_mm.errors.InputError: image a.jpg does not exist\n',
    ],
)
def test_a_tool_ends_with_one_line(message):
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        raise InputError(message)
    assert end.value.code == 'error: image a.jpg does not exist'


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), exit_on_input_error():
        raise KeyError('a bug')
