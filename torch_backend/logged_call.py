"""One collective as the log of collectives sees it: when it began and ended, and for how long the program stood still for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from switchml.torch_backend.agreement import Said


class LoggedCall:
    """From its call on.

    Args:
        said: what was called.
        begin: when, by `time.perf_counter`.
        over: is told once, when it has ended and nobody waits in it any more; on any thread.

    Attributes:
        chained: somebody took its future, and may wait for that where nobody sees it.
    """

    def __init__(self, said: Said, begin: float, over: Callable[[LoggedCall], None]) -> None:
        self.said, self.begin, self._over = said, begin, over
        self.chained = False
        self.stood = time.perf_counter() - begin
        self._end = 0.0
        self._waiters = 0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """From its call to its end."""
        return self._end - self.begin

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for it."""
        with self._lock:
            self._waiters += 1
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                now = time.perf_counter()
                # What comes after the end is told already, and nothing to speak of.
                self.stood += (now if not self._end else max(begin, self._end)) - begin
                self._waiters -= 1
                told = bool(self._end) and not self._waiters
            if told:
                self._tell()

    def ended(self) -> None:
        """It is over. Only the first time counts."""
        with self._lock:
            if self._end:
                return
            self._end = time.perf_counter()
            if self._waiters:
                return
        self._tell()

    def _tell(self) -> None:
        over, self._over = self._over, _told
        over(self)


def _told(_: LoggedCall) -> None:
    """Nothing more."""
