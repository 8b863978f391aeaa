"""What belongs to one process: a forked child has copies of it, but shares the rings and sockets behind them."""

from __future__ import annotations

import os

from switchml.errors import WorkerClosedError

_forks = 0  # that lead to this process: to look is a tenth of a system call


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Owner:
    """The process that made this."""

    __slots__ = ("_forks", "_pid")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._forks = _forks

    def is_here(self) -> bool:
        """Whether this is that process, and no child forked from it."""
        return self._forks == _forks

    def check(self) -> None:
        """Raise WorkerClosedError in a forked child."""
        if self._forks != _forks:
            raise WorkerClosedError(
                f"this process was forked from process {self._pid}, whose place in the job cannot be used here: use it "
                "there, or let the child join a job or create a process group of its own"
            )
