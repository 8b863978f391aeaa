"""Finds and ends the processes of a run by a mark in the environment that all of them inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

VARIABLE = "SWITCHML_RUN"
_POLL = 0.02


def new_mark() -> str:
    """A value that no other run has."""
    return uuid.uuid4().hex


def marked(mark: str) -> list[int]:
    """Live processes with the mark, whoever their parent is now. Processes of other users are not seen."""
    wanted = f"{VARIABLE}={mark}".encode()
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _carries(entry, wanted)
    ]


def _carries(process: Path, wanted: bytes) -> bool:
    try:
        # A zombie has no environment left.
        return wanted in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def end_marked(mark: str, grace: float = 1.0) -> int:
    """Asks all processes with the mark to end, then makes them. Returns how many there were; takes at most 2 x grace."""
    first = marked(mark)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + grace
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(_POLL)
    return len(first)
