"""The handle that torch gets for a collective on the switch.

Three parties take an interest in it, each at any time and on its own thread: a caller in `wait`, a future that DDP
chains on, and the switch's worker that finishes it. `_settle` is where they meet; it runs once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch._C._distributed_c10d import Work
from torch.futures import Future
from torch.profiler import record_function
from typing_extensions import override

from switchml.errors import CollectiveTimeoutError
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.kept_handles import KeptHandle, KeptHandles
from switchml.torch_backend.logged_call import LoggedCall
from switchml.torch_backend.promise import Promise
from switchml.torch_backend.reduction import seconds
from switchml.torch_backend.untraced import untraced
from switchml.worker.owner import Owner
from switchml.worker.work import Work as Part

Array = np.ndarray[Any, Any]
Finish = Callable[[Sequence[Array]], None]
"""Brings the parts' results to where the caller wants them."""

UNLIMITED = timedelta(0)


class SwitchWork(KeptHandle):
    """Handle of one call, which may be several collectives on the switch (`parts`).

    Args:
        name: of the collective, for messages.
        parts: in order of submission.
        outputs: the tensors that hold the result; the value of the future. Kept alive, as are inputs that `parts` or
            `finish` refer to.
        pool: completes the future.
        finish: runs once after all parts have succeeded; None if results are in place already.
        notify: False if parts advance only inside their `wait` (the caller of a synchronous collective waits at once).
        keeper: keeps the handle for C++ when Python lets go of it.
        explain: the error to raise in place of a part's.
    """

    _logged: LoggedCall | None = None

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        outputs: list[torch.Tensor],
        pool: CompletionPool,
        *,
        finish: Finish | None = None,
        notify: bool = True,
        keeper: KeptHandles | None = None,
        explain: Callable[[BaseException], BaseException] | None = None,
    ) -> None:
        # Who waits at once holds the handle.
        super().__init__(outputs, keeper if notify else None)
        self._name = name
        self._parts: Sequence[Part] = parts
        self._pool = pool
        self._finish = finish
        self._lock = threading.Lock()
        self._owner = Owner()
        self._settled = False
        self._error: BaseException | None = None
        self._promise: Promise[list[torch.Tensor]] | None = None
        # Results that have yet to be copied must arrive even if the caller drops this handle.
        self._watched = finish is not None and notify
        self._notify = notify
        self._explain = explain
        self.shown_as = ""  # to a profiler that has seen the call; waits are shown, too
        if self._watched:
            self._watch()

    def follow(self, call: LoggedCall) -> None:
        """Tell the log of collectives how this one goes on. Once, right after it was made."""
        if self._settled or not self._parts:
            call.ended()
        else:
            self._logged = call
            self._parts[-1].add_done_callback(lambda _: call.ended())

    @untraced
    def wait(self, timeout: timedelta = UNLIMITED) -> bool:
        """Block until the result is there; 0 = until the collective's own deadline. Raises the collective's error.

        Raises:
            CollectiveTimeoutError: `timeout` has passed. The collective itself goes on.
            WorkerClosedError: in flight in the process that this one was forked from.
        """
        if self._logged is not None:
            with self._logged.waiting():
                self._wait(timeout)
        elif self.shown_as and torch._C._autograd._profiler_enabled():
            with record_function(f"{self.shown_as} (wait)"):
                self._wait(timeout)
        else:
            self._wait(timeout)
        if self._error is not None:
            raise self._error
        return True

    def _wait(self, timeout: timedelta) -> None:
        if not self._settled:
            self._owner.check()
            self._wait_for_parts(seconds(timeout))
            self._settle()
        self._wait_for_future()

    @override
    @untraced
    def is_completed(self) -> bool:
        if self._settled:
            return True
        if not self._owner.is_here():
            return False
        self._drive()
        if not all(part.done() for part in self._parts):
            return False
        self._settle()
        return True

    @override
    def is_over(self) -> bool:
        return self._settled or all(part.done() for part in self._parts)

    @override
    def shed(self) -> bool:
        with self._lock:
            if self._settled:
                self._promise = None  # its future has the tensors
                return True
            watch = not self._watched
            self._watched = True
        if watch:  # so that the parts' memory goes when they are done
            self._watch()
        return True

    @override
    @untraced
    def is_success(self) -> bool:
        return self.is_completed() and self._error is None

    @override
    @untraced
    def exception(self) -> BaseException | None:
        return self._error if self.is_completed() else None

    @override
    def result(self) -> list[torch.Tensor]:
        return self.outputs()

    @override
    @untraced
    def synchronize(self) -> None:
        self.wait()

    @override
    def source_rank(self) -> int:
        raise RuntimeError(f"{self._name} has no single source rank")

    @untraced
    def get_future(self) -> Future[list[torch.Tensor]]:
        """Its value is the list of result tensors; it is completed on a thread of its own."""
        if not self._settled:
            self._owner.check()
        self.outputs()
        if self._logged is not None:
            self._logged.chained = True
        with self._lock:
            if self._promise is not None:
                return self._promise.future
            promise: Promise[list[torch.Tensor]] = Promise()
            self._promise = promise
            settled = self._settled
            watch = not settled and not self._watched
            self._watched |= watch
        if settled:
            self._end(promise)
        elif watch:
            self._watch()
        return promise.future

    def _end(self, promise: Promise[list[torch.Tensor]]) -> None:
        if self._error is not None:
            promise.fail(self._error)
        else:
            promise.keep(self.outputs())

    def _wait_for_parts(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        for part in self._parts:
            try:
                part.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Exception as error:
                if not part.done():
                    raise CollectiveTimeoutError(
                        f"{self._name} is not over after the {timeout} s given to wait(); it goes on until its own "
                        f"deadline: wait again, or see the other ranks ({error})"
                    ) from error

    def _wait_for_future(self) -> None:
        """After `wait` the future is ready, whichever thread completes it."""
        promise = self._promise
        if promise is not None and not promise.future.done():
            try:
                promise.future.wait()
            except Exception:
                return  # the same error as ours

    def _drive(self) -> None:
        """Let parts advance without a caller in `wait`."""
        with self._lock:
            watch = not self._notify and not self._watched
            self._watched |= watch
        if watch:
            self._watch()

    def _watch(self) -> None:
        if not self._notify or not self._parts:
            self._pool.submit(self._finish_in_background)
            return
        # The parts finish in order, so the last one's end is the end of all, unless an earlier one failed.
        self._parts[-1].add_done_callback(self._hand_over)

    def _hand_over(self, _: Part) -> None:
        # On the worker's own thread, which must go on moving packets.
        self._pool.submit(self._finish_in_background)

    def _finish_in_background(self) -> None:
        self._wait_for_parts(None)
        self._settle()

    def _settle(self) -> None:
        """All parts are done: bring results home and complete the future, once."""
        with self._lock:
            if self._settled:
                return
            self._error = next(
                (error for part in self._parts if (error := part.exception()) is not None), None
            )
            if self._error is not None and self._explain is not None:
                self._error = self._explain(self._error)
            if self._error is None and self._finish is not None:
                try:
                    self._finish([part.wait() for part in self._parts])
                except Exception as error:
                    self._error = error
            self._parts, self._finish = (), None  # their memory is the caller's again
            self._settled = True
            promise = self._promise
        if promise is not None:
            self._end(promise)


class BlockingWork(SwitchWork):
    """Handle of a call whose caller gets it when it is over.

    Args:
        name: of the collective, for messages.
        part: the one it is.
        outputs: as of any SwitchWork.
    """

    # One for all: only who asks for a future takes it, and there is nobody to meet.
    _lock = threading.Lock()
    _settled = False
    _watched = True
    _error: BaseException | None = None
    _promise: Promise[list[torch.Tensor]] | None = None
    _keeper = None
    shown_as = ""

    def __init__(self, name: str, part: Part, outputs: list[torch.Tensor]) -> None:
        Work.__init__(self)
        self._name, self._parts, self._outputs = name, (part,), outputs

    def end(self, explain: Callable[[BaseException], BaseException]) -> None:
        """Bring it to its end here. explain: as of any SwitchWork."""
        try:
            self._parts[0].wait()
        except Exception as error:
            self._error = explain(error)
        self._parts, self._settled = (), True

    @override
    def wait(self, timeout: timedelta = UNLIMITED) -> bool:
        if self._error is not None:
            raise self._error
        return True
