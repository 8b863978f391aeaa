"""How far long work is, on stderr; nothing when that is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bar:
    """A progress bar that long work tells how it goes on."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=total)

    def phase(self, text: str) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=text)

    def step(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)

    def note(self, text: str) -> None:
        """A line above the bar that stays; shown where there is no bar as well."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(total: int, *, shown: bool = True) -> Iterator[Bar]:
    """A bar of `total` steps that disappears at the end; not `shown` it only takes what it is told."""
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    # Twice a second: the display must not take the processor from the work, which may be a measurement.
    console = Console(file=sys.stderr)
    with Progress(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not (shown and console.is_terminal),
    ) as progress:
        yield Bar(progress, total)
