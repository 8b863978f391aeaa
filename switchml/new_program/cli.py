"""`switchml p4`: a small P4 program, copied to where it can be changed."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from switchml.errors import UsageError

p4_app = typer.Typer(no_args_is_help=True, add_completion=False)


@p4_app.callback(help="Begin a P4 program of one's own.")
def _p4() -> None:
    """Makes it a group, though it has one command."""


@p4_app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Where it goes; made if it is not there.")],
) -> None:
    """Copy a switch in one file, compiled, with a packet script that tries it and a README with the next steps."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for file in (resources.files("switchml.new_program") / "template").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    print(f"{folder} has program.p4; README.md there says what to do with it. To begin with:")
    print(f"    switchml stf {folder}/program.json {folder}/program.stf")
