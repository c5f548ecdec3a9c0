# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Starts a tool's processes with torchrun, for tools/dist_train.sh and tools/dist_test.sh.

If a process fails, only its own error message is printed, without torchrun's long report.
"""

import argparse
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from kapao_mm.errors import InputError
from kapao_mm.utils.cli import exit_on_input_error

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import ProcessFailure


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('gpus', metavar='GPUS', help='number of processes on this machine')
    parser.add_argument('tool', metavar='TOOL', help='script to start')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='its arguments')
    return parser.parse_args()


def torchrun_args(gpus: str, environment: dict[str, str]) -> list[str]:
    """Returns torchrun's flags for the number and place of the processes.

    Args:
        gpus: Number of processes on this machine.
        environment: Environment variables: NNODES, the number of machines (default 1); NODE_RANK,
            the number of this machine (0); MASTER_ADDR (127.0.0.1) and PORT (29500, or a free port
            if there is one machine), the address of the first machine.

    Raises:
        InputError: If a number is invalid, or MASTER_ADDR is missing with several machines.
    """
    machines = environment.get('NNODES', '1')
    machine = environment.get('NODE_RANK', '0')
    for name, value in dict(GPUS=gpus, NNODES=machines, NODE_RANK=machine).items():
        if not value.isdigit():
            raise InputError(f'{name} must be a number, but is {value!r}')
    if int(machine) >= int(machines):
        raise InputError(
            f'NODE_RANK={machine}: the numbers of {machines} machines are 0 to {int(machines) - 1}'
        )
    args = ['--nproc-per-node', gpus]
    if machines == '1' and 'PORT' not in environment:
        return [*args, '--standalone', '--local-addr', '127.0.0.1']
    if machines != '1' and 'MASTER_ADDR' not in environment:
        raise InputError('several machines (NNODES) need MASTER_ADDR, the address of the first')
    address = environment.get('MASTER_ADDR', '127.0.0.1')
    args += ['--nnodes', machines, '--node-rank', machine]
    return [*args, '--master-addr', address, '--master-port', environment.get('PORT', '29500')]


def describe(failures: dict[int, 'ProcessFailure']) -> str | None:
    """Returns the error message for processes killed by a signal.

    Args:
        failures: Failed processes by rank, including those that torchrun ended because another one
            failed.

    Returns:
        The message; None if a process exited by itself, since it has printed its own message.
    """
    if any(failure.exitcode > 0 for failure in failures.values()):
        return None
    causes = [f for f in failures.values() if f.exitcode != -signal.SIGTERM]
    first = min(causes or failures.values(), key=lambda failure: failure.timestamp)
    hint = ' (out of memory?)' if first.exitcode == -signal.SIGKILL else ''
    return f'error: process {first.local_rank} was ended by {first.signal_name()}{hint}'


def main() -> None:
    """Starts the processes."""
    args = parse_args()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault('OMP_NUM_THREADS', '1')  # torchrun and MMEngine would warn
    os.environ.setdefault('MKL_NUM_THREADS', '1')
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        run.main([*torchrun_args(args.gpus, dict(os.environ)), args.tool, *args.arguments])
    except ChildFailedError as error:
        sys.exit(describe(error.failures) or 1)
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


if __name__ == '__main__':
    with exit_on_input_error():
        main()
