# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
import socket
import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import distributed, nn

from kapao_mm.errors import InputError
from kapao_mm.utils.config import load_config
from kapao_mm.utils.dist import join_processes, leave_processes

# Prints rank, number of processes, rank on the machine, and the sum of all ranks.
PROGRAM = """
import os, sys, torch
from torch import distributed
from kapao_mm.utils.dist import join_processes, leave_processes
join_processes(sys.argv[1])
total = torch.tensor(distributed.get_rank())
distributed.all_reduce(total)
print(distributed.get_rank(), distributed.get_world_size(), os.environ['LOCAL_RANK'], total.item())
leave_processes()
"""


@pytest.fixture
def alone(monkeypatch):
    """The environment of a process that torchrun started alone."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    given = dict(
        RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=port
    )
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    yield monkeypatch
    leave_processes()


def test_without_a_launcher_there_is_no_process_group():
    join_processes('none')
    assert not distributed.is_initialized()
    leave_processes()


def test_processes_without_a_gpu_use_gloo_until_they_leave(alone):
    join_processes('pytorch')
    assert distributed.get_backend() == 'gloo'
    leave_processes()
    assert not distributed.is_initialized()


def test_processes_with_gpus_are_left_to_mmengine(alone):
    alone.setattr(torch.cuda, 'device_count', lambda: 1)
    join_processes('pytorch')
    assert not distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(alone):
    alone.setattr(torch.cuda, 'device_count', lambda: 2)
    alone.setenv('LOCAL_RANK', '2')
    with pytest.raises(InputError, match='torch sees 2 GPUs.* start at most 2'):
        join_processes('pytorch')


@pytest.mark.parametrize(
    ('launcher', 'missing', 'command'),
    [
        ('pytorch', 'RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR', 'tools/dist_train.sh'),
        ('slurm', 'SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID', 'tools/slurm_train.sh'),
        ('mpi', 'OMPI_COMM_WORLD_RANK', 'mpirun'),
    ],
)
def test_missing_launcher_is_reported_with_the_command(monkeypatch, launcher, missing, command):
    for name in [*os.environ]:
        if name.startswith(('SLURM_', 'OMPI_')) or name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
            monkeypatch.delenv(name)
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    with pytest.raises(InputError, match=f'--launcher {launcher}: {missing}.*{command}'):
        join_processes(launcher)


@pytest.mark.slow
@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_processes_of_slurm_and_mpi_join_on_the_cpu(repo, tmp_path, launcher):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && echo 127.0.0.1\n')
    scontrol.chmod(0o755)
    base = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')}
    base |= dict(PATH=f'{tmp_path}:{base["PATH"]}', MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES='')
    if launcher == 'slurm':
        base |= dict(SLURM_NTASKS='2', SLURM_NODELIST='node[1-2]')
        names = ('SLURM_PROCID', 'SLURM_LOCALID')
    else:
        base |= dict(OMPI_COMM_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
        names = ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK')
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, launcher],
            cwd=repo,
            env=base | dict.fromkeys(names, str(rank)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == ['0 2 0 1', '1 2 1 1']


@pytest.mark.slow
@pytest.mark.parametrize(('sync_bn', 'kind'), [(None, nn.BatchNorm2d), ('torch', nn.SyncBatchNorm)])
def test_sync_bn_is_set_in_the_config(repo, alone, tmp_path, sync_bn, kind):
    @MODEL_WRAPPERS.register_module(name='Plain', force=True)
    class Plain(nn.Module):  # torch's DDP refuses SyncBN without a GPU
        def __init__(self, module):
            super().__init__()
            self.module = module

    join_processes('pytorch')
    cfg = load_config(repo / 'configs/kapao/kapao_n_coco.py')
    assert cfg.sync_bn is None
    cfg.merge_from_dict(dict(sync_bn=sync_bn, launcher='pytorch', work_dir=str(tmp_path)))
    cfg.experiment_name = tmp_path.name  # the default is the current second
    cfg.model_wrapper_cfg = dict(type='Plain')
    model = Runner.from_cfg(cfg).model.module
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {kind}


def test_batch_norm_statistics_are_those_of_the_first_process(repo):
    cfg = load_config(repo / 'configs/kapao/kapao_n_coco.py')
    assert cfg.model_wrapper_cfg.broadcast_buffers
