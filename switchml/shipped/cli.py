"""`switchml examples`: where the files are that come with the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from switchml.errors import UsageError

FOLDERS = ("examples", "mininet")
"""Links in the tree: examples/ and scripts/mininet/ at the top."""


def examples(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the path of this one alone.", show_default=False),
    ] = None,
) -> None:
    """List the examples and Mininet networks that come with switchml, or tell where one of them is.

    For instance:

    switchml run -n 2 -- $(switchml examples digits) --backend switchml

    cp $(switchml examples digits) my_training.py
    """
    found = dict(shipped())
    if name is not None:
        if name not in found:
            raise UsageError(f"there is no example {name!r}: there are {', '.join(found)}")
        print(found[name])
        return
    table = Table("name", "", box=None, pad_edge=False, header_style="dim")
    for each, path in found.items():
        table.add_row(each, first_sentence(path))
    Console().print(table)


def shipped() -> Iterator[tuple[str, Path]]:
    """The files by name: without the ending, and with `mininet/` before those of that folder."""
    base = Path(__file__).parent
    for folder in FOLDERS:
        for path in sorted((base / folder).iterdir()):
            if path.suffix in (".py", ".json"):
                yield (path.stem if folder == "examples" else f"{folder}/{path.stem}"), path


def first_sentence(path: Path) -> str:
    """What a file says of itself; "" = nothing."""
    if path.suffix != ".py":
        return "a dashboard, to be imported by Grafana" if "grafana" in path.name else ""
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(told.partition("\n\n")[0].split())
