"""`python -m switchml.switch_emulator`: the same as `switchml switch`."""

from __future__ import annotations

import sys

import typer

from switchml.errors import SwitchMLError
from switchml.switch_emulator.cli import switch_command

if __name__ == "__main__":
    try:
        typer.run(switch_command)
    except SwitchMLError as error:
        print(f"switchml: {error}", file=sys.stderr)
        sys.exit(1)
