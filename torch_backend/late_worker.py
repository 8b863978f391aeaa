"""Takes the calls of a group whose place on the switch is still being found, so that no call waits for the other ranks.

Ranks may use their groups for the first time in different orders: were the call to wait, each could wait in another group.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from switchml.errors import CollectiveTimeoutError, SwitchMLError, WorkerClosedError
from switchml.worker.collectives import Call, Collectives
from switchml.worker.work import Work

Array = npt.NDArray[Any]

_NOTHING: Array = np.empty(0, np.uint8)


class _LateWork(Work):
    """Of a call that has to wait; once it is begun it follows the handle that it gets there."""

    def __init__(self, worker: LateWorker, what: str, result: Array) -> None:
        super().__init__(worker, what, result)
        self.begun: Work | None = None

    def follow(self, begun: Work) -> None:
        self.begun = begun
        begun.add_done_callback(lambda work: self.finish(work.exception(), work.error_bound()))


class _Waiting(NamedTuple):
    work: _LateWork
    begin: Callable[[], Work]


class LateWorker(Collectives):
    """Keeps calls until `settle` says who carries them, or `abort` that nobody will.

    A call's timeout counts from when it is begun: finding the place has a deadline of its own.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._carrier: Collectives | None = None
        self._error: SwitchMLError | None = None
        self._settled = threading.Event()

    @property
    def transport(self) -> str:
        """Of who carries the calls; "" = nobody yet, or gloo."""
        return getattr(self._carrier, "transport", "")

    def settle(self, carrier: Collectives) -> None:
        """Begin what has come, in its order; whatever still comes is begun at once."""
        with self._lock:
            self._carrier = carrier
            if self._error is not None:
                carrier.abort(self._error)
            for work, begin in self._waiting:
                try:
                    work.follow(begin())
                except Exception as error:
                    work.finish(error)
            self._waiting = []
        self._settled.set()

    def in_order(self, begin: Callable[[], Work], what: str, result: Array = _NOTHING) -> Work:
        """Begin something that goes another way after the calls that were made before it.

        Args:
            begin: it.
            what: for messages.
            result: of the handle.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._carrier is None:
                work = _LateWork(self, what, result)
                self._waiting.append(_Waiting(work, begin))
                return work
        return begin()

    def beside(self, other: Collectives) -> Collectives:
        """`other`, in order with the calls of this one."""
        return _Beside(self, other)

    @override
    def abort(self, error: SwitchMLError) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._error = error
            carrier = self._carrier
        if carrier is not None:
            carrier.abort(error)
        for each in waiting:
            each.work.finish(error)
        self._settled.set()

    @override
    def leave(self) -> None:
        self.abort(WorkerClosedError("the process group was shut down before all of its ranks had come"))

    @override
    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        def begin() -> Work:
            assert self._carrier is not None
            return self._carrier._submit(call, timeout, notify)

        return self.in_order(begin, call.signature.told(), call.result)

    def until(self, work: Work, timeout: float | None) -> bool:
        """See `work.Progress`."""
        assert isinstance(work, _LateWork)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._settled.wait(timeout):
            return False
        begun = work.begun
        if begun is not None:
            try:  # whoever waits may have to drive
                begun.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except CollectiveTimeoutError:
                if not begun.done():
                    return False
            except Exception:  # as the callback of `begun` brings it
                pass
        return work.wait_event(None)


class _Beside(Collectives):
    def __init__(self, late: LateWorker, other: Collectives) -> None:
        self.rank, self.world_size = other.rank, other.world_size
        self._late, self._other = late, other

    @override
    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        def begin() -> Work:
            return self._other._submit(call, timeout, notify)

        return self._late.in_order(begin, call.signature.told(), call.result)
