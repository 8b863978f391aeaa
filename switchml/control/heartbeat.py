"""Heartbeats of one membership: a daemon thread that keeps the lease and hears when the job ends or a rank leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from switchml.control.control_messages import Departure
from switchml.errors import SwitchGoneError, SwitchMLError

Departures = Mapping[int, Departure]
"""By rank, those who have left in order."""

# Seconds between heartbeats under leases of any length: without a lifeline they bring the news.
_LONGEST_INTERVAL = 2.5
# Seconds after which a switch is given up that has closed the lifeline, takes no new one and does not answer.
_SEVERED = 1.0


def interval_of(lease: float) -> float:
    """Seconds between two signs of life."""
    return min(lease / 4, _LONGEST_INTERVAL)


class Heartbeats:
    """Calls `beat(timeout)` several times a lease until the job ends, the switch falls silent or `stop`.

    `beat` returns the ranks that have left, raises ConnectionError when nobody answers and another SwitchMLError when the job
    has ended. `address` is for messages. `severed` says whether the switch's end of the lifeline is closed for good. All
    callbacks run in this thread.
    """

    def __init__(
        self,
        beat: Callable[[float], Departures],
        *,
        lease: float,
        address: str,
        severed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._beat = beat
        self._lease = lease
        self._address = address
        self._severed = severed
        self._stop = threading.Event()
        self._due = threading.Event()
        self._lock = threading.Lock()
        self._ended = ""
        self._gone = False  # the switch itself
        self._left: Departures = {}
        self._on_abort: Callable[[str], None] | None = None
        self._on_left: Callable[[Departures], None] | None = None
        self._on_gone: Callable[[str], None] | None = None
        self._thread = threading.Thread(target=self._run, name="switchml-heartbeats", daemon=True)
        self._thread.start()

    def report_to(
        self,
        on_abort: Callable[[str], None],
        on_left: Callable[[Departures], None] | None,
        on_gone: Callable[[str], None] | None = None,
    ) -> None:
        """Sets the callbacks; what has happened already is reported at once, from the caller's thread.

        `on_gone` is called in place of `on_abort` when it is the switch that has gone.
        """
        with self._lock:
            self._on_abort, self._on_left, self._on_gone = on_abort, on_left, on_gone
            ended, left = self._ended, self._left
            on_end = on_gone if self._gone and on_gone is not None else on_abort
        if left and on_left is not None:
            on_left(left)
        if ended:
            on_end(ended)

    def hurry(self) -> bool:
        """The next heartbeat is due now. False = there will be none any more."""
        self._due.set()
        return not self._ended and not self._stop.is_set()

    @property
    def ended(self) -> str:
        """Why there are none any more; "" = there are."""
        return self._ended

    def stop(self, timeout: float) -> None:
        """Ends the thread, and waits for it unless called from it. No callback starts afterwards."""
        self._stop.set()
        self._due.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        interval = interval_of(self._lease)
        silence = 0.0
        while True:
            begun = time.monotonic()
            self._due.wait(interval)
            self._due.clear()
            if self._stop.is_set():
                return
            # Counted by tries, not by the clock: a process that was stopped for a minute has not been ignored for one.
            slept = min(time.monotonic() - begun, interval)
            begun = time.monotonic()
            try:
                left = self._beat(self._lease / 2)
            except ConnectionError:
                silence += min(time.monotonic() - begun, self._lease / 2) + slept
                if silence >= self._lease:
                    self._report_end(
                        f"the switch at {self._address} stopped answering for {self._lease:g} s", True
                    )
                    return
                if silence >= _SEVERED and self._severed():
                    self._report_end(
                        f"the switch at {self._address} has ended: it closed its connections and takes no new ones",
                        True,
                    )
                    return
            except SwitchMLError as error:
                self._report_end(str(error), isinstance(error, SwitchGoneError))
                return
            else:
                silence = 0.0
                self._report_left(left)

    def _report_end(self, reason: str, gone: bool) -> None:
        with self._lock:
            self._ended, self._gone = reason, gone
            on_end = self._on_gone if gone and self._on_gone is not None else self._on_abort
        if on_end is not None and not self._stop.is_set():
            on_end(reason)

    def _report_left(self, left: Departures) -> None:
        with self._lock:
            new = left.keys() - self._left.keys()
            self._left = left
            on_left = self._on_left
        if new and on_left is not None and not self._stop.is_set():
            on_left(left)
