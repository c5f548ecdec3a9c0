# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""tools/slurm_train.sh and slurm_test.sh, with a fake srun that records its arguments."""

import os
import subprocess

import pytest


@pytest.fixture
def srun(repo, tmp_path):
    """Makes a function that runs a script and returns the flags of srun and the command."""
    fake = tmp_path / 'srun'
    fake.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"{tmp_path}/given"\n')
    fake.chmod(0o755)

    def run(name, *args, **environment):
        env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', **environment}
        command = ['bash', f'tools/{name}', *args]
        done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
        if done.returncode:
            return done.stderr, done.returncode
        given = (tmp_path / 'given').read_text().splitlines()
        start = given.index('python')
        return given[:start], given[start:]

    return run


def test_the_training_script_passes_its_arguments_to_srun(srun):
    flags, command = srun(
        'slurm_train.sh', 'gpu', 'my job', 'a b.py', 'work dir', '--resume', 'c d'
    )
    assert flags == [
        '--partition=gpu',
        '--job-name=my job',
        '--ntasks=8',
        '--ntasks-per-node=8',
        '--gres=gpu:8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
    ]
    tool = ['python', '-u', 'tools/train.py', 'a b.py', '--work-dir', 'work dir']
    assert command == [*tool, '--launcher', 'slurm', '--resume', 'c d']


def test_the_test_script_reads_the_environment_variables_of_mmpose(srun):
    flags, command = srun(
        'slurm_test.sh',
        *('gpu', 'job', 'a.py', 'c d.pth', '--dump', 'e f.pkl'),
        GPUS='16',
        GPUS_PER_NODE='4',
        CPUS_PER_TASK='3',
        SRUN_ARGS='--time=2:00 --exclusive',
    )
    wanted = ['--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4', '--cpus-per-task=3']
    assert flags[2:6] == wanted
    assert flags[-2:] == ['--time=2:00', '--exclusive']
    tool = ['python', '-u', 'tools/test.py', 'a.py', 'c d.pth']
    assert command == [*tool, '--launcher', 'slurm', '--dump', 'e f.pkl']


def test_few_gpus_are_on_one_machine(srun):
    flags, _ = srun('slurm_train.sh', 'gpu', 'job', 'a.py', 'work', GPUS='2')
    assert flags[2:5] == ['--ntasks=2', '--ntasks-per-node=2', '--gres=gpu:2']


@pytest.mark.parametrize('name', ['slurm_train.sh', 'slurm_test.sh'])
def test_missing_arguments_print_the_usage(srun, name):
    printed, code = srun(name, 'gpu', 'job', 'a.py')
    assert code == 2
    assert printed.startswith('usage: [GPUS=8]') and f'tools/{name} PARTITION JOB_NAME' in printed
