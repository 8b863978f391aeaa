"""Word that something is compiled, for those who wait for it. Imports no numba, which takes a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

_TELL_EVERY = 1.0

_listeners: list[Callable[[], None]] = []
_told = 0.0


@contextlib.contextmanager
def telling(listener: Callable[[], None]) -> Iterator[None]:
    """Calls `listener`, inside the context, while something is compiled, here or by a process that is waited for.

    So that who waits for this process can wait longer. It is called every second or so, and between two functions at least.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell() -> None:
    """Call the listeners, unless they were called a moment ago."""
    global _told
    now = time.monotonic()
    if now - _told >= _TELL_EVERY:
        _told = now
        for listener in list(_listeners):
            listener()
