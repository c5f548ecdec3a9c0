# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
"""Prints tables, and writes figures and plots, for the tools of research."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kapao_mm.utils.atomic_file import atomic_path, check_folder

MAX_WIDTH = 1000  # characters of a line that is not for a terminal


@contextmanager
def live_table(*columns: str) -> Iterator[Callable[..., None]]:
    """Prints a Markdown table while its rows are measured.

    In a terminal each row appears when it is added, otherwise the table is printed at the end.

    Args:
        columns: Titles of the columns. Texts of the first one are left-aligned, others right.

    Yields:
        Function that adds a row, with a text for each cell. Cells that are left out stay empty.
    """
    table = Table(box=box.MARKDOWN)
    for title in columns:
        table.add_column(title, justify='right' if table.columns else 'left')
    width = None if sys.stdout.isatty() else MAX_WIDTH
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with Live(table, console=console, auto_refresh=False) as live:

        def add(*cells: str) -> None:
            table.add_row(*cells)
            live.refresh()

        yield add
    if not console.is_terminal:
        console.line()  # Live ends the last line in terminals only


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Prints a table whose rows are known, see :func:`live_table`."""
    with live_table(*columns) as add:
        for row in rows:
            add(*row)


def write_report(report: dict[str, Any], path: Path, plot: Figure | None = None) -> None:
    """Writes figures as JSON, and a plot beside them (.png), and prints where they are."""
    check_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + '\n')
    print(f'\nfigures: {path}')
    if plot:
        save_plot(plot, path.with_suffix('.png'))


def save_plot(plot: Figure, path: Path) -> None:
    """Writes a plot completely or not at all, and prints where it is."""
    with atomic_path(path) as temporary:
        plot.savefig(temporary)
    print(f'plot: {path}')
