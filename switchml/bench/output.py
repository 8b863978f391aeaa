"""Where a report goes: text to the terminal, JSON to a file or, for "-", to standard output in the text's place."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from switchml import __version__
from switchml.errors import UsageError

# Tables are never cut: a pipe has no width, and a row that wraps in a terminal is better than one with holes.
MINIMUM_WIDTH = 320


def text_console(json_target: str) -> Console:
    """Standard output, or standard error when JSON takes standard output."""
    stream = sys.stderr if json_target == "-" else sys.stdout
    console = Console(file=stream, highlight=False)
    if console.width < MINIMUM_WIDTH:
        console = Console(file=stream, highlight=False, width=MINIMUM_WIDTH, soft_wrap=True)
    return console


def show(console: Console, above: list[str], table: RenderableType, below: Sequence[str]) -> None:
    """Lines, a table, lines."""
    for line in above:
        console.print(line, soft_wrap=True, markup=False)
    console.print()
    console.print(table)
    console.print()
    for line in below:
        console.print(line, soft_wrap=True, markup=False)


def check_writable(target: str) -> None:
    """Before a long run: whether its file can be written after it.

    Raises:
        UsageError: the folder does not exist.
    """
    if target and target != "-" and not Path(target).absolute().parent.is_dir():
        raise UsageError(f"{target}: its folder does not exist")


def write_json(document: dict[str, Any], target: str) -> None:
    """Write to the file `target`, to standard output for "-", nowhere for ""."""
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    elif target:
        Path(target).write_text(text)


def publish(
    benchmark: str,
    target: str,
    above: list[str],
    table: RenderableType,
    below: Sequence[str] = (),
    *,
    results: Any,
    machine: dict[str, str | int | float] | None = None,
    **more: Any,
) -> None:
    """Show what a benchmark found, and write it as JSON to `target`.

    Args:
        benchmark: its name in the document.
        target: as for `write_json`.
        above: lines over the table.
        table: the table.
        below: lines under it.
        results: the document's results, plain values.
        machine: facts as they were before the run; those of now by default.
        more: further parts of the document.
    """
    show(text_console(target), above, table, below)
    write_json(
        {"benchmark": benchmark, "machine": machine or machine_facts(), **more, "results": results}, target
    )


def machine_facts() -> dict[str, str | int | float]:
    """Processor, cores, kernel, memory, interpreter and TCP's congestion control."""
    return {
        "switchml": __version__,
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_kib": int((_first_value("/proc/meminfo", "MemTotal") or "0 kB").split()[0]),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tcp_congestion_control": congestion_control(),
        "load_average": os.getloadavg()[0],
    }


def congestion_control() -> str:
    """TCP's congestion control in the calling thread's network namespace."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        return "unknown"


def _first_value(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
