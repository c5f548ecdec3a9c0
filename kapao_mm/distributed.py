# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Training and testing with several processes: how they find each other, with and without GPUs."""

import os
import subprocess

import torch
from torch import distributed

from kapao_mm.errors import InputError

# What each launcher calls the rank, the number of processes and the rank on its machine.
VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)
COMMANDS = dict(
    pytorch='tools/dist_train.sh or tools/dist_test.sh (torchrun)',
    slurm='tools/slurm_train.sh or tools/slurm_test.sh (srun)',
    mpi='mpirun -x MASTER_ADDR=HOST_OF_THE_FIRST_PROCESS python tools/...',
)


def join_processes(launcher: str) -> None:
    """Prepares this process for its group, and joins it where MMEngine could not.

    MMEngine joins every group on a GPU, also where there is none; without one the group is joined
    here, with gloo, and MMEngine takes it as it is.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        InputError: the launcher did not start this process, or there are fewer GPUs than processes
            on this machine.
    """
    if launcher == 'none' or distributed.is_initialized():
        return
    _set_torch_variables(launcher)
    gpus = torch.cuda.device_count()
    if not gpus:
        distributed.init_process_group('gloo')
    elif int(os.environ['LOCAL_RANK']) >= gpus:
        raise InputError(
            f'torch sees {gpus} GPUs, too few for the processes of this machine; start {gpus} at '
            'most on each machine'
        )


def leave_processes() -> None:
    """Leaves the group in order, if there is one; torch warns at exit of those that do not."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _set_torch_variables(launcher: str) -> None:
    """Says in torch's variables what the launcher says in its own."""
    needed = [*VARIABLES[launcher], *(('MASTER_ADDR',) if launcher != 'slurm' else ())]
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise InputError(
            f'--launcher {launcher}: {", ".join(missing)} not in the environment; start with '
            f'{COMMANDS[launcher]}, or leave --launcher out for a single process'
        )
    for name, theirs in zip(VARIABLES['pytorch'], VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ[theirs]
    if 'MASTER_ADDR' not in os.environ:
        hosts = ('scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST'])
        os.environ['MASTER_ADDR'] = subprocess.check_output(hosts, text=True).split()[0]
    os.environ.setdefault('MASTER_PORT', '29500')  # torch's own
