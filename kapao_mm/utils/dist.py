# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Sets up the process group for training and testing with several processes."""

import gc
import os
import subprocess

import torch
from torch import distributed

from kapao_mm.errors import InputError

# Environment variables of each launcher for rank, number of processes, and rank on the machine.
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
    """Prepares this process for distributed training; without a GPU it also joins the group.

    MMEngine can join a process group only with a GPU. Without one, the group is joined here with
    the gloo backend, and MMEngine uses the existing group.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        InputError: If the launcher did not start this process, or this machine has fewer GPUs than
            processes.
    """
    if launcher == 'none' or distributed.is_initialized():
        return
    _set_torch_variables(launcher)
    gpus = torch.cuda.device_count()
    if not gpus:
        distributed.init_process_group('gloo')
    elif int(os.environ['LOCAL_RANK']) >= gpus:
        raise InputError(
            f'torch sees {gpus} GPUs, but this machine has more processes; start at most {gpus} on '
            'each machine'
        )


def leave_processes() -> None:
    """Destroys the process group if there is one; otherwise torch would warn at exit.

    The processes wait for each other, and models that still use the group are freed first: a
    thread of the group that outlives it would abort the process.
    """
    if distributed.is_initialized():
        gc.collect()
        distributed.barrier()
        distributed.destroy_process_group()


def _set_torch_variables(launcher: str) -> None:
    """Copies the launcher's environment variables to those that torch.distributed reads.

    Raises:
        InputError: If a variable of the launcher is missing.
    """
    needed = [*VARIABLES[launcher], *(('MASTER_ADDR',) if launcher != 'slurm' else ())]
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise InputError(
            f'--launcher {launcher}: {", ".join(missing)} missing in the environment; start with '
            f'{COMMANDS[launcher]}, or omit --launcher for a single process'
        )
    for name, source in zip(VARIABLES['pytorch'], VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ[source]
    if 'MASTER_ADDR' not in os.environ:
        hosts = ('scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST'])
        os.environ['MASTER_ADDR'] = subprocess.check_output(hosts, text=True).split()[0]
    os.environ.setdefault('MASTER_PORT', '29500')  # torch's default
