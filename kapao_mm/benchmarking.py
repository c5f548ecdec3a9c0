# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""What the tools that measure time and memory share."""

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

from kapao_mm.utils.atomic_file import atomic_path

WARM_UP = 2  # runs that are not counted, unless a tool says otherwise

Part = Callable[[str], AbstractContextManager]  # times what is done inside, by name


def describe_machine(*modules: str) -> str:
    """The processor, and the versions that matter.

    Args:
        modules: names of modules besides torch; one that is not installed is left out.
    """
    if torch.cuda.is_available():
        device = f'{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}'
    else:
        info = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.partition(': ')[2] for line in info if line.startswith('model name')]
        device = f'{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads'
    names = ['torch', *filter(find_spec, modules), 'kapao_mm']
    # OpenVINO's tells the commit as well, after a dash.
    versions = [f'{name} {import_module(name).__version__.partition("-")[0]}' for name in names]
    return f'{device}; {", ".join(versions)}, Python {platform.python_version()}'


def find_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def time_parts(
    run: Callable[[Part], None], runs: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Times the parts of a function after a warm-up; the peak of memory is that of what follows.

    Args:
        run: called with ``part``; what it does inside ``with part(name):`` is timed, until the
            device has done its work.
        runs: how many are measured.
        device: where the function computes.
        warm_up: how many runs come before.

    Returns:
        Seconds of each run by name of the part.
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
    """Median and 95th percentile, ms."""
    median, p95 = np.percentile(seconds, (50, 95)) * 1000
    return dict(median_ms=float(median), p95_ms=float(p95))


def reset_peak(device: torch.device) -> None:
    """Forgets the peak of memory, such as that of compiling and of choosing algorithms."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')


def peak(device: torch.device) -> int:
    """Bytes since :func:`reset_peak`: allocated on the GPU, or resident in RAM."""
    return torch.cuda.max_memory_allocated() if device.type == 'cuda' else memory('VmHWM')


def memory(name: str) -> int:
    """Bytes of RAM of this process, by the name of the line in Linux's status file."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def run_alone(tool: str, job: dict[str, Any]) -> dict[str, Any]:
    """Runs a tool again, with its arguments, for one row: a process of its own has clean memory.

    Args:
        tool: its file.
        job: what it gets as JSON after ``--job``; it prints the row as its last line, JSON too.

    Returns:
        The row; an error becomes its ``error``.
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
    """Writes figures as JSON into a folder that is made if it is missing, and says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + '\n')
    print(f'\nfigures: {path}')
