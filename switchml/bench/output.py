"""Where a report goes: text to the terminal, JSON to a file or, for "-", to standard output in the text's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from switchml.errors import UsageError

# Tables are never cut: a pipe has no width, and a row that wraps in a terminal is better than one with holes.
MINIMUM_WIDTH = 190


def text_console(json_target: str) -> Console:
    """Standard output, or standard error when JSON takes standard output."""
    stream = sys.stderr if json_target == "-" else sys.stdout
    console = Console(file=stream, highlight=False)
    if console.width < MINIMUM_WIDTH:
        console = Console(file=stream, highlight=False, width=MINIMUM_WIDTH, soft_wrap=True)
    return console


def show(console: Console, above: list[str], table: RenderableType, below: list[str]) -> None:
    """Lines, a table, lines."""
    for line in above:
        console.print(line, soft_wrap=True, markup=False)
    console.print()
    console.print(table)
    console.print()
    for line in below:
        console.print(line, soft_wrap=True, markup=False)


def check_writable(target: str) -> None:
    """Raises `UsageError` before a long run when its file could not be written after it."""
    if target and target != "-" and not Path(target).absolute().parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist")


def write_json(document: dict[str, Any], target: str) -> None:
    """Write to the file `target`, to standard output for "-", nowhere for ""."""
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    elif target:
        Path(target).write_text(text)
