# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import signal
from types import SimpleNamespace

import pytest

from kapao_mm.errors import InputError


@pytest.fixture(scope='module')
def launch(load_file):
    return load_file('tools/misc/launch.py')


def failure(exitcode, timestamp=0, local_rank=0):
    name = signal.Signals(-exitcode).name if exitcode < 0 else ''
    return SimpleNamespace(
        exitcode=exitcode, timestamp=timestamp, local_rank=local_rank, signal_name=lambda: name
    )


def test_one_machine_uses_a_free_port(launch):
    args = launch.torchrun_args('4', {})
    assert args == ['--nproc-per-node', '4', '--standalone', '--local-addr', '127.0.0.1']


def test_a_given_port_is_used(launch):
    args = launch.torchrun_args('4', dict(PORT='1234'))
    assert args[-4:] == ['--master-addr', '127.0.0.1', '--master-port', '1234']


def test_several_machines_connect_to_the_first(launch):
    args = launch.torchrun_args('8', dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1'))
    place = ['--nnodes', '2', '--node-rank', '1']
    place += ['--master-addr', '10.0.0.1', '--master-port', '29500']
    assert args == ['--nproc-per-node', '8', *place]


@pytest.mark.parametrize(
    ('gpus', 'environment', 'message'),
    [
        ('a.py', {}, "GPUS must be a number, but is 'a.py'"),
        ('2', dict(NNODES='two'), 'NNODES must be a number'),
        ('2', dict(NNODES='2', NODE_RANK='2'), 'machines are 0 to 1'),
        ('2', dict(NNODES='2', NODE_RANK='1'), 'need MASTER_ADDR'),
    ],
)
def test_invalid_numbers_of_processes_and_machines_are_refused(launch, gpus, environment, message):
    with pytest.raises(InputError, match=message):
        launch.torchrun_args(gpus, environment)


def test_a_process_that_printed_its_error_is_not_reported_again(launch):
    assert launch.describe({0: failure(-15), 1: failure(1)}) is None


def test_a_killed_process_is_reported_before_those_that_were_ended_after_it(launch):
    failures = {0: failure(-15, timestamp=1), 1: failure(-9, timestamp=2, local_rank=1)}
    assert launch.describe(failures) == 'error: process 1 was ended by SIGKILL (out of memory?)'


def test_the_first_is_reported_if_all_processes_were_ended(launch):
    failures = {0: failure(-15, timestamp=2), 1: failure(-15, timestamp=1, local_rank=1)}
    assert launch.describe(failures) == 'error: process 1 was ended by SIGTERM'
