"""A rank's collectives counted: how many it has called, how many are finished, and how many the others still take part in."""

from __future__ import annotations

import threading
from collections.abc import Callable

from switchml.errors import JobAbortedError


class Tally:
    """Of one worker.

    Args:
        abort: called with the error when this rank has called more than those who have left take part in.

    Attributes:
        lock: held to change anything here. Numbering a call and queueing it are one step under it: the streams' order is the
            order of the numbers.
        called: collectives, the number of the next one.
        finished: of these.
        limit: once ranks have left: how many they have finished, and the error of whatever is called beyond.
    """

    def __init__(self, abort: Callable[[JobAbortedError], None]) -> None:
        self.lock = threading.Lock()
        self.called = 0
        self.finished = 0
        self.limit: tuple[int, JobAbortedError] | None = None
        self._abort = abort

    def end_if_alone(self) -> None:
        """Abort where the rest cannot be finished."""
        if self.limit is not None:
            calls, error = self.limit
            if self.finished >= calls and self.called > calls:
                self._abort(error)
