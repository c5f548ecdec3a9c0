# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError

import pytest

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error, input_shape, positive

TOOLS = [
    *('train', 'test', 'demo', 'deployment/export', 'model_converters/official_to_mm'),
    *('dataset_converters/new_dataset', 'analysis_tools/benchmark', 'misc/run_demo', 'misc/launch'),
]


def test_an_option_without_a_value_is_named(capsys):
    parser = ArgumentParser()
    add_config_options(parser, 'a=1')
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'input_size'])
    assert '--cfg-options input_size: give KEY=VALUE' in capsys.readouterr().err


def test_options_of_several_flags_add_up_and_keep_their_text():
    parser = ArgumentParser()
    add_config_options(parser, 'a=1')
    args = parser.parse_args(['--cfg-options', 'a=1', 'b=x=y', '--cfg-options', 'a=2'])
    assert args.cfg_options == {'a': '2', 'b': 'x=y'}
    assert parser.parse_args([]).cfg_options == {}  # the default stays empty


def test_positive_numbers_are_whole_and_at_least_1():
    assert positive('7') == 7
    for text in ('0', '-1', '1.5', 'x'):
        with pytest.raises(ValueError):
            positive(text)


def test_input_shapes_are_squares_or_height_x_width():
    assert input_shape('1280') == (1280, 1280)
    assert input_shape('896x1280') == (896, 1280)


@pytest.mark.parametrize('text', ['0', '100', '64x', '64x100', '64x64x64', '-64', 'wide', ''])
def test_input_shapes_are_multiples_of_64(text):
    with pytest.raises(ArgumentTypeError, match=f'{text}: give multiples of 64 px'):
        input_shape(text)


@pytest.mark.parametrize('tool', TOOLS)
def test_help_is_answered_without_importing_torch(repo, tool):
    # -X importtime names every module that is imported
    command = [sys.executable, '-X', 'importtime', repo / f'tools/{tool}.py', '--help']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith('usage: ')
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'argparse' in imported
    assert not imported & {'torch', 'mmengine', 'mmpose'}


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
