# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError
from itertools import pairwise

import pytest

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import add_config_options, exit_on_input_error, input_shape, positive

TOOLS = [
    *('train', 'test', 'demo', 'deployment/export', 'model_converters/official_to_mm'),
    *('dataset_converters/new_dataset', 'analysis_tools/benchmark', 'misc/run_demo', 'misc/launch'),
]


def test_option_without_a_value_is_reported(capsys):
    parser = ArgumentParser()
    add_config_options(parser, 'a=1')
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'input_size'])
    assert '--cfg-options input_size: give KEY=VALUE' in capsys.readouterr().err


def test_options_of_several_flags_are_collected_as_text():
    parser = ArgumentParser()
    add_config_options(parser, 'a=1')
    args = parser.parse_args(['--cfg-options', 'a=1', 'b=x=y', '--cfg-options', 'a=2'])
    assert args.cfg_options == {'a': '2', 'b': 'x=y'}
    assert parser.parse_args([]).cfg_options == {}  # the default stays empty


def test_positive_accepts_integers_from_1():
    assert positive('7') == 7
    for text in ('0', '-1', '1.5', 'x'):
        with pytest.raises(ValueError):
            positive(text)


def test_input_shape_is_a_square_or_height_x_width():
    assert input_shape('1280') == (1280, 1280)
    assert input_shape('896x1280') == (896, 1280)


@pytest.mark.parametrize('text', ['0', '100', '64x', '64x100', '64x64x64', '-64', 'wide', ''])
def test_input_shape_must_be_a_multiple_of_64(text):
    with pytest.raises(ArgumentTypeError, match=f'{text}: give multiples of 64 px'):
        input_shape(text)


@pytest.mark.parametrize('tool', TOOLS)
def test_help_is_shown_without_importing_torch(repo, tool):
    # -X importtime lists every module that is imported
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
def test_input_error_ends_a_tool_with_one_line(message):
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        raise InputError(message)
    assert end.value.code == 'error: image a.jpg does not exist'


def test_other_errors_are_not_caught():
    with pytest.raises(KeyError), exit_on_input_error():
        raise KeyError('a bug')


def delay_of(monkeypatch, error, **environment):
    """Returns the seconds that a process waits before it reports an error."""
    slept = []
    monkeypatch.setattr('time.sleep', slept.append)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((SystemExit, RuntimeError)), exit_on_input_error():
        raise error
    return sum(slept)


def test_process_with_the_most_useful_error_exits_first(monkeypatch):
    delays = [
        delay_of(monkeypatch, error, WORLD_SIZE='2', LOCAL_RANK=rank)
        for error in (InputError('no image'), RuntimeError('lost the other'))
        for rank in ('0', '1')
    ]
    assert delays[0] == 0
    assert all(later - sooner >= 2 for sooner, later in pairwise(delays))


def test_single_process_exits_at_once(monkeypatch):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    assert delay_of(monkeypatch, InputError('no image')) == 0
    assert delay_of(monkeypatch, RuntimeError('a bug')) == 0
