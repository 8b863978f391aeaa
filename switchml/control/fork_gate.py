"""Holds a fork back until short gRPC calls are over.

Data loaders fork in the middle of a training. A child that is made while another thread is inside a call can inherit a lock
that nobody will release (with GRPC_ENABLE_FORK_SUPPORT=1 gRPC's own handler waits for it for ever), and gRPC complains on
stderr. Heartbeats last a millisecond, and a group joins beside the program within some: the fork waits for them, and they for the
fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# A call that a dead switch leaves hanging, or that waits for other ranks, must not hold a fork for long.
_LONGEST_HOLD = 1.0


class ForkGate:
    """Open to calls, but for the time of a fork."""

    def __init__(self) -> None:
        self._reset()

    @contextmanager
    def call(self) -> Iterator[None]:
        """The span of one call."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closing)
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Before a fork: waits until no call is active, and keeps new ones out."""
        self._changed.acquire()
        self._closing = True
        self._changed.wait_for(lambda: self._active == 0, _LONGEST_HOLD)

    def open(self) -> None:
        """After it, in the parent."""
        self._closing = False
        self._changed.notify_all()
        self._changed.release()

    def _reset(self) -> None:
        """After it, in the child: the threads of the calls exist no more."""
        self._changed = threading.Condition(threading.Lock())
        self._active = 0
        self._closing = False

    def register(self) -> None:
        """Close and open it around every fork of this process from now on."""
        os.register_at_fork(before=self.close, after_in_parent=self.open, after_in_child=self._reset)
