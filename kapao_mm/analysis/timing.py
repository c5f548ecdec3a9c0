# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Provides functions of the tools that measure time and memory."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kapao_mm.utils.atomic_file import atomic_path, check_folder

WARM_UP = 2  # runs before the measured ones; the default of all tools

Part = Callable[[str], AbstractContextManager]  # context manager that times its block, by name


def describe_machine(*modules: str) -> str:
    """Describes the processor or GPU and the versions of the software in one line.

    Args:
        modules: Names of modules to list besides torch. Modules that are not installed are left
            out.
    """
    if torch.cuda.is_available():
        device = f'{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}'
    else:
        info = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.partition(': ')[2] for line in info if line.startswith('model name')]
        device = f'{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads'
    names = ['torch', *filter(find_spec, modules), 'kapao_mm']
    # OpenVINO's version also has the commit, after a dash.
    versions = [f'{name} {import_module(name).__version__.partition("-")[0]}' for name in names]
    return f'{device}; {", ".join(versions)}, Python {platform.python_version()}'


def find_device() -> torch.device:
    """Returns the GPU if there is one, otherwise the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def time_parts(
    run: Callable[[Part], None], runs: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Times the parts of a function after a warm-up.

    The peak of memory is reset after the warm-up, see :func:`peak`.

    Args:
        run: Function that is called with ``part``. It wraps each part in ``with part(name):``. The
            time of a part includes the device's work.
        runs: Number of measured runs.
        device: Device that the function computes on.
        warm_up: Number of runs before them.

    Returns:
        Seconds of each run, by name of the part.
    """
    seconds: dict[str, list[float]] = {}

    def wait() -> None:
        if device.type == 'cuda':
            torch.cuda.synchronize()

    @contextmanager
    def part(name: str) -> Iterator[None]:
        wait()
        start = time.perf_counter()
        yield
        wait()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    for i in range(warm_up + runs):
        if i == warm_up:
            seconds.clear()
            reset_peak(device)
        run(part)
    return seconds


def summarise(seconds: list[float]) -> dict[str, float]:
    """Returns the median and the 95th percentile, ms."""
    median, p95 = np.percentile(seconds, (50, 95)) * 1000
    return dict(median_ms=float(median), p95_ms=float(p95))


def reset_peak(device: torch.device) -> None:
    """Resets the peak of memory, for example after compiling and choosing algorithms."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')


def peak(device: torch.device) -> int:
    """Returns the peak of memory since :func:`reset_peak`, bytes.

    On a GPU this is the allocated memory, otherwise the resident memory of the process.
    """
    return torch.cuda.max_memory_allocated() if device.type == 'cuda' else memory('VmHWM')


def memory(name: str) -> int:
    """Returns a figure of this process's memory, bytes.

    Args:
        name: Start of the line in ``/proc/self/status``, such as ``VmHWM``.
    """
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def run_alone(tool: str, job: dict[str, Any]) -> dict[str, Any]:
    """Runs a tool again in a new process, with clean memory, to measure one row of its table.

    Args:
        tool: Path of the tool. It is run with the arguments of this process.
        job: Job that the tool gets as JSON after ``--job``. It prints the row as JSON in its last
            line.

    Returns:
        The row. If the tool fails, a dict with the ``error``.
    """
    run = subprocess.run(
        [sys.executable, tool, *sys.argv[1:], '--job', json.dumps(job)],
        capture_output=True,
        text=True,
    )
    if not run.returncode:
        return json.loads(run.stdout.strip().splitlines()[-1])
    lines = run.stderr.strip().splitlines() or [f'ended with code {run.returncode}']
    return dict(error=lines[-1].removeprefix('error: ')[:200])


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes a report as JSON, and prints where it is; its folder is made if it is missing."""
    check_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + '\n')
    print(f'\nfigures: {path}')
