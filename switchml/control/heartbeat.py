"""Heartbeats of one membership: a daemon thread that keeps the lease and hears when the job ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from switchml.errors import SwitchMLError


class Heartbeats:
    """Calls `beat(timeout)` every quarter of a lease until the job ends, the switch falls silent or `stop`.

    `beat` returns the ranks that have left, raises ConnectionError when nobody answers and another SwitchMLError when the job
    has ended. `address` is for messages. Both callbacks run in this thread.
    """

    def __init__(self, beat: Callable[[float], frozenset[int]], *, lease: float, address: str) -> None:
        self._beat = beat
        self._lease = lease
        self._address = address
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ended = ""
        self._left: frozenset[int] = frozenset()
        self._on_abort: Callable[[str], None] | None = None
        self._on_left: Callable[[frozenset[int]], None] | None = None
        self._thread = threading.Thread(target=self._run, name="switchml-heartbeats", daemon=True)
        self._thread.start()

    def report_to(
        self, on_abort: Callable[[str], None], on_left: Callable[[frozenset[int]], None] | None
    ) -> None:
        """Sets the callbacks; what has happened already is reported at once, from the caller's thread."""
        with self._lock:
            self._on_abort, self._on_left = on_abort, on_left
            ended, left = self._ended, self._left
        if left and on_left is not None:
            on_left(left)
        if ended:
            on_abort(ended)

    def stop(self, timeout: float) -> None:
        """Ends the thread, and waits for it unless called from it. No callback starts afterwards."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        interval = self._lease / 4
        silence = 0.0
        while not self._stop.wait(interval):
            begun = time.monotonic()
            try:
                left = self._beat(self._lease / 2)
            except ConnectionError:
                # Counted by tries, not by the clock: a process that was stopped for a minute has not been ignored for one.
                silence += min(time.monotonic() - begun, self._lease / 2) + interval
                if silence >= self._lease:
                    self._report_end(f"the switch at {self._address} stopped answering for {self._lease:g} s")
                    return
            except SwitchMLError as error:
                self._report_end(str(error))
                return
            else:
                silence = 0.0
                self._report_left(left)

    def _report_end(self, reason: str) -> None:
        with self._lock:
            self._ended = reason
            on_abort = self._on_abort
        if on_abort is not None and not self._stop.is_set():
            on_abort(reason)

    def _report_left(self, left: frozenset[int]) -> None:
        with self._lock:
            new = left - self._left
            self._left = left
            on_left = self._on_left
        if new and on_left is not None and not self._stop.is_set():
            on_left(left)
