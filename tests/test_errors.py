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


def raised_after(monkeypatch, error, **environment):
    """Seconds that a process of several waits before it says what went wrong."""
    slept = []
    monkeypatch.setattr('time.sleep', slept.append)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((SystemExit, RuntimeError)), exit_on_input_error():
        raise error
    return sum(slept)


def test_of_several_processes_the_one_that_knows_speaks_first(monkeypatch):
    turns = [
        raised_after(monkeypatch, error, WORLD_SIZE='2', LOCAL_RANK=rank)
        for error in (InputError('no image'), RuntimeError('lost the other'))
        for rank in ('0', '1')
    ]
    assert turns[0] == 0
    assert all(later - sooner >= 2 for sooner, later in zip(turns, turns[1:], strict=False))


def test_a_single_process_does_not_wait(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert raised_after(monkeypatch, InputError('no image')) == 0
    assert raised_after(monkeypatch, RuntimeError('a bug')) == 0
