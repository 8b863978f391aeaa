"""What is closed when the interpreter ends: memberships before the switches that they are on, whoever was imported first."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from enum import IntEnum


class Stage(IntEnum):
    """What is closed first when the interpreter ends."""

    CLIENTS = 0
    SWITCHES = 1


_closers: list[tuple[Stage, Callable[[], None]]] = []


def close_at_exit(stage: Stage, close: Callable[[], None]) -> None:
    """`close` runs once, after those of earlier stages. It must be bounded and must not raise."""
    _closers.append((stage, close))


def uncaught() -> str:
    """While the interpreter ends: the exception that ended the program, in a line; "" = none did."""
    error = getattr(sys, "last_value", None)
    if error is None or hasattr(sys, "ps1"):  # at a prompt it may be an old one
        return ""
    return in_a_line(error)


def in_a_line(error: BaseException) -> str:
    """Its type and the first line of its text."""
    name, text = type(error).__name__, str(error).strip()
    return f"{name}: {text.splitlines()[0]}" if text else name


def _close_all() -> None:
    for _, close in sorted(_closers, key=lambda closer: closer[0]):
        close()


atexit.register(_close_all)
