"""The handle of a collective that is under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from switchml.errors import CollectiveTimeoutError
from switchml.worker.owner import Owner
from switchml.worker.signature import Signature


class Progress(Protocol):
    """Whoever brings works to their end."""

    def until(self, work: Work, timeout: float | None) -> bool:
        """Bring this work, among others, to its end; False when the time is over first."""


class Work:
    """A collective under way. Made by `Worker`; the arrays it was given must live and stay untouched until it is done."""

    _ended = False
    _event: threading.Event | None = None  # made for those who sleep: whoever drives it himself needs none
    _callbacks: tuple[Callable[[Work], None], ...] = ()
    _error: BaseException | None = None
    _bound = 0.0

    def __init__(
        self,
        progress: Progress | None,
        what: str | Signature,
        result: npt.NDArray[Any],
        job: str = "",
        owner: Owner | None = None,
    ) -> None:
        """Under way from now on.

        Args:
            progress: whom to ask for its end; None where `finish` is called by itself.
            what: for messages.
            result: what `wait` returns.
            job: for messages.
            owner: the process it belongs to, where somebody knows; else this one.
        """
        self._progress = progress
        self._said = what
        self._job = job
        self._result = result
        self._lock = threading.Lock()
        self._owner = Owner() if owner is None else owner

    @classmethod
    def ended(cls, result: npt.NDArray[Any]) -> Work:
        """One that was over at once."""
        work = cls(None, "a collective of one rank", result)
        work.finish()
        return work

    @property
    def _what(self) -> str:
        said = self._said
        if isinstance(said, str):
            return said
        return f"{said.told()} in job {self._job!r}"

    def __repr__(self) -> str:
        state = (
            "in flight" if not self.done() else "done" if self._error is None else f"failed: {self._error}"
        )
        return f"<{self._what}: {state}>"

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended

    def wait(self, timeout: float | None = None) -> npt.NDArray[Any]:
        """The result, once it is there.

        Args:
            timeout: seconds to wait here; the collective itself goes on and has a deadline of its own.

        Raises:
            CollectiveTimeoutError: not done within `timeout`, or the collective's own deadline passed.
            WorkerClosedError: in flight in the process that this one was forked from.
            CollectiveError: whatever else ended it.
        """
        if not self._ended:
            self._owner.check()
            if not (
                self.wait_event(timeout) if self._progress is None else self._progress.until(self, timeout)
            ):
                raise CollectiveTimeoutError(f"{self._what} is still in flight after {timeout} s of waiting")
        if self._error is not None:
            raise self._error
        return self._result

    def wait_event(self, timeout: float | None) -> bool:
        """Sleep until somebody else ends it; False when the time is over first."""
        with self._lock:
            if self._ended:
                return True
            if self._event is None:
                self._event = threading.Event()
        return self._event.wait(timeout)

    def exception(self) -> BaseException | None:
        """What ended it, or None when it ended well. Only once done."""
        if not self.done():
            raise RuntimeError(f"{self._what} is not done yet: call wait() first")
        return self._error

    def error_bound(self) -> float:
        """Largest absolute error of an element that block floating point may have caused; 0 where the result is exact. Once done.

        The rounding of the sum to the array's own dtype is not in it.
        """
        return self._bound

    def add_done_callback(self, callback: Callable[[Work], None]) -> None:
        """Call `callback(work)` when it ends: at once if it has, else from the engine's thread, where it must not block."""
        with self._lock:
            if not self._ended:
                self._callbacks = (*self._callbacks, callback)
                return
        callback(self)

    def finish(self, error: BaseException | None = None, bound: float = 0.0) -> None:
        """End it. Only the first call counts."""
        with self._lock:
            if self._ended:
                return
            self._error, self._bound = error, bound
            self._ended = True
            event, callbacks, self._callbacks = self._event, self._callbacks, ()
        if event is not None:
            event.set()
        for callback in callbacks:
            callback(self)
