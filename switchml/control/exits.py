"""What is closed when the interpreter ends: memberships before the switches that they are on, whoever was imported first."""

from __future__ import annotations

import atexit
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


def _close_all() -> None:
    for _, close in sorted(_closers, key=lambda closer: closer[0]):
        close()


atexit.register(_close_all)
