# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Measures time and memory, and describes the machine, for the benchmarks."""

import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kapao_mm import register_all_modules
from kapao_mm.errors import InputError

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


def summarize(seconds: list[float]) -> dict[str, float]:
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


def run_alone(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in a new process, whose memory is not that of other measurements.

    Returns:
        What the function returns. If it fails, a dict with the ``error``, one line.
    """
    with ProcessPoolExecutor(1, get_context('spawn'), _start_process) as pool:
        try:
            return pool.submit(function, *args).result()
        except InputError as error:
            return dict(error=str(error))
        except BrokenProcessPool:
            return dict(error='its process was killed (out of memory?)')
        except Exception as error:
            return dict(error=traceback.format_exception_only(error)[-1].splitlines()[0])


def _start_process() -> None:
    """Registers this package, and silences libraries, which would print into the table."""
    set_start_method(None, force=True)  # 'spawn' would pass to the dataloader's workers
    silence = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(silence, output)
    register_all_modules()
