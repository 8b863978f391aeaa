"""What belongs to one process: a forked child has copies of it, but shares the rings and sockets behind them."""

from __future__ import annotations

import os

from switchml.errors import WorkerClosedError


class Owner:
    """The process that made this."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Whether this is that process, and no child forked from it."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise WorkerClosedError in a forked child."""
        if os.getpid() != self._pid:
            raise WorkerClosedError(
                f"this process was forked from process {self._pid}, whose place in the job cannot be used here: use it "
                "there, or let the child join a job or create a process group of its own"
            )
