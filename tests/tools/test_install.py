# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def checkout(repo, tmp_path) -> Path:
    """A copy of the files that the set-up reads."""
    for name in ('tools/install.sh', 'pyproject.toml', 'setup.py', 'requirements.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repo / name, tmp_path / name)
    shutil.copytree(repo / 'requirements', tmp_path / 'requirements')
    return tmp_path


def install(checkout: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', 'tools/install.sh'],
        cwd=checkout,
        env={**os.environ, 'PYTHON': sys.executable, **environment},
        capture_output=True,
        text=True,
    )


def put_command(folder: Path, name: str, script: str) -> str:
    """Writes a shell script, and returns a PATH in which it comes first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\n{script}\n')
    (folder / name).chmod(0o755)
    return f'{folder}:{os.environ["PATH"]}'


def test_another_python_version_is_reported_in_one_line(checkout):
    put_command(checkout / 'bin', 'python', 'echo 3.8')
    done = install(checkout, PYTHON=str(checkout / 'bin/python'))
    assert done.returncode == 1
    assert 'needs Python 3.11' in done.stdout
    assert '(3.8)' in done.stdout
    assert not (checkout / '.venv').exists()


def test_an_unknown_mmcv_is_reported_in_one_line(checkout):
    done = install(checkout, MMCV='heavy')
    assert (done.returncode, done.stdout) == (1, 'set-up: MMCV=heavy is neither light nor full.\n')


def test_a_full_disk_is_reported_in_one_line(checkout):
    path = put_command(checkout / 'bin', 'df', "printf 'head\\nx 1 1 1000000 1 x\\n'")
    done = install(checkout, PATH=path)
    assert done.returncode == 1
    assert done.stdout == f'set-up: less than 8 GB free on the disk of {checkout.resolve()}.\n'


@pytest.mark.slow
def test_a_missing_package_index_is_reported_and_the_next_run_continues(checkout):
    offline = dict(
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL='http://127.0.0.1:9/simple',
        PIP_FIND_LINKS='',
        PIP_RETRIES='0',
        PIP_CONSTRAINT='',
    )
    done = install(checkout, **offline)
    assert done.returncode == 1
    assert 'no package index answers' in done.stdout.splitlines()[-1]
    again = install(checkout, **offline)
    assert 'making .venv' not in again.stdout  # it exists already
