"""The stream of one worker: brings the transfers of many collectives through the compiled engine, in order.

Whoever waits drives: a caller in `wait` runs the engine itself when nobody else does, which saves two
wake-ups across cores; a thread of the stream's own does it for works that nobody waits for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np

from switchml.aggregation.shared_slots import ROW_WORDS
from switchml.errors import CollectiveError, CollectiveMismatchError, SwitchMLError, WorkerClosedError
from switchml.link.records import table_of
from switchml.protocol.counters import WORKER_COUNTERS, indices
from switchml.worker.collectives import ExactBlocks, Pipeline
from switchml.worker.engine import EXACT_NEEDED, FINISHED, Engine, exact_needed, run
from switchml.worker.entry import NOT_OVER, enter, leave
from switchml.worker.in_memory import OVER, MemoryEngine, run_in_memory
from switchml.worker.signature import Signature, explain_mismatch
from switchml.worker.transfer import Listed, Ready, Source, Transfer
from switchml.worker.window import (
    ASKING,
    BLOCKED,
    BLOCKS,
    DONE,
    LAID,
    MISMATCHED,
    RESEND,
    RING,
    SENT,
    WORDS,
    StreamRecord,
    chunk_elements,
    names_ranks,
)
from switchml.worker.work import Work

# Python looks up this often while the engine runs: for signals, and for the ends of waits.
_LOOK_NS = 100_000_000
_HANDOVER_SECONDS = 0.05
_QUEUED = tuple(StreamRecord.__annotations__).index("queued")
_BLOCKS_EXACT = indices(WORKER_COUNTERS)["blocks_exact"]


class Stream:
    """Brings transfers through an engine.

    Args:
        engine: what the loop works on.
        wake: ends the loop's sleep.
        explain: says why a chunk's position has no result; may take a while.
        spin_ns: how long the engine looks again before it sleeps.

    Attributes:
        elements: of a full chunk, by kind of transfer.
        shared_row: as of `Transfer.record`.
    """

    def __init__(
        self,
        engine: Engine | MemoryEngine,
        wake: Callable[[], None],
        explain: Callable[[int], str],
        *,
        spin_ns: int,
    ) -> None:
        self._engine = engine
        self._in_memory = isinstance(engine, MemoryEngine)
        self.shared_row = ROW_WORDS if self._in_memory else 0
        self._table = table_of(engine)
        self._handle: int = self._table.ctypes.data
        self._wake = wake
        self._explain = explain
        self._spin_ns = spin_ns
        self._state = engine.window.stream[0]
        record: Any = engine.window.stream  # numpy's stubs lack the buffer protocol in Python 3.11
        self._longs = memoryview(record.view(np.int64))
        flag: Any = engine.flag
        self._flag = memoryview(flag)
        self.elements = {kind: chunk_elements(engine.window, kind) for kind in (BLOCKS, WORDS)}
        self._submitted: deque[Source | Ready] = deque()
        self._sources: deque[Source | Ready] = deque()
        self._in_flight: dict[int, Transfer] = {}
        self._awaiting_exact: dict[Transfer, int] = {}
        self._driving = threading.Lock()
        # A token where there may be work for the thread, which takes all there are: an event costs its caller more.
        self._work_left: SimpleQueue[None] = SimpleQueue()
        self._error: SwitchMLError | None = None
        self._held_up = False
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="switchml-stream", daemon=True)
        self._thread.start()

    def submit(self, source: Source | Ready, notify: bool) -> None:
        """Put a collective's source at the end.

        Args:
            source: of its transfers.
            notify: nobody is going to wait for it at once.

        Raises:
            SwitchMLError: what broke the stream.
        """
        if self._error is not None:
            raise self._error
        self._submitted.append(source)
        self._flag[0] = 1
        if self._driving.locked():
            self._wake()
        if notify:
            self._work_left.put(None)

    def at_once(self, ready: Ready) -> None:
        """Bring what is prepared to its end, if nothing else is to be done and that needs no looking up: `until`, but sooner."""
        if self._held_up or not self._driving.acquire(False):
            return
        try:
            self._flag[0] = 0
            if self._only_one() is ready:
                self._carry(ready, _LOOK_NS)
        except Exception as error:
            self._break(error)
        finally:
            self._driving.release()

    def until(self, work: Work, timeout: float | None) -> bool:
        """See `work.Progress`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not work.done():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if not self._held_up and self._driving.acquire(blocking=False):
                try:
                    self._drive(work, deadline)
                finally:
                    self._driving.release()
                if self._in_flight or self._sources or self._submitted:
                    self._work_left.put(None)
            else:
                work.wait_event(_HANDOVER_SECONDS if left is None else min(left, _HANDOVER_SECONDS))
        return True

    @property
    def error(self) -> SwitchMLError | None:
        """With what everything to come fails."""
        return self._error

    def abort(self, error: SwitchMLError) -> None:
        """Fail everything in flight and everything to come. From any thread."""
        if self._error is None:
            self._error = error
        self._flag[0] = 1
        self._wake()
        self._work_left.put(None)

    def close(self, error: SwitchMLError, timeout: float = 5.0) -> None:
        """Abort and end the stream's thread."""
        self._stopping = True
        self.abort(error)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Nobody drives meanwhile: what is under way stays as it is, and who waits goes on waiting."""
        self._held_up = True
        try:
            while not self._driving.acquire(timeout=_HANDOVER_SECONDS):
                self._flag[0] = 1
                self._wake()
            try:
                yield
            finally:
                self._driving.release()
        finally:
            self._held_up = False
            self._work_left.put(None)

    def go_on(self, engine: Engine, wake: Callable[[], None]) -> None:
        """While it is held up: the same window at another switch, some of whose results were taken meanwhile.

        Args:
            engine: with it.
            wake: as before.
        """
        self._engine, self._table = engine, table_of(engine)
        self._handle = self._table.ctypes.data
        self._wake = wake
        try:
            self._reap(EXACT_NEEDED if exact_needed(engine.window) else FINISHED)
        except Exception as error:
            self._break(error)

    def _serve(self) -> None:
        while not self._stopping:
            self._work_left.get()
            while not self._work_left.empty():
                self._work_left.get()
            with self._driving:
                self._drive(None, None)
        with self._driving:
            self._drive(None, None)

    def _drive(self, work: Work | None, deadline: float | None) -> None:
        """Run the engine until `work` is done, the deadline has passed or nothing is left. The caller holds `_driving`."""
        while not self._held_up and (work is None or not work.done()):
            self._flag[0] = 0
            ready = self._only_one()
            if ready is None:
                while self._submitted:
                    self._sources.append(self._submitted.popleft())
                if self._error is not None:
                    self._fail_everything(self._error)
                    return
            limit = (
                _LOOK_NS
                if deadline is None
                else min(_LOOK_NS, max(1, int((deadline - time.monotonic()) * 1e9)))
            )
            try:
                if ready is not None:
                    self._carry(ready, limit)
                else:
                    self._fill()
                    if not self._in_flight:
                        return
                    self._reap(self._run(limit))
            except Exception as error:
                self._break(error)
            if deadline is not None and time.monotonic() >= deadline:
                return

    def _break(self, error: Exception) -> None:
        """A fault of ours must not leave a waiter without an answer."""
        self._error = (
            error if isinstance(error, SwitchMLError) else CollectiveError(f"the stream broke: {error!r}")
        )
        self._error.__cause__ = None if self._error is error else error

    def _only_one(self) -> Ready | None:
        """What alone is to be done, where it is prepared."""
        submitted = self._submitted
        if len(submitted) != 1 or self._sources or self._in_flight or self._error is not None:
            return None
        source = submitted[0]
        return source if isinstance(source, Ready) else None

    def _run(self, limit: int) -> int:
        if self._in_memory:
            return run_in_memory(self._handle, self._spin_ns, limit, 0, 0, 0, 0, 0, 0)
        return run(self._handle, self._spin_ns, limit)

    def _enter_and_run(self, ready: Ready, limit: int) -> int:
        """Bring what is prepared through, alone: OVER and the highest exponent, or why the loop has returned."""
        handle = self._handle
        if self._in_memory:
            return run_in_memory(
                handle,
                self._spin_ns,
                limit,
                ready.template,
                ready.source,
                ready.destination,
                ready.flags,
                ready.deadline,
                ready.number,
            )
        enter(
            handle,
            ready.template,
            ready.source,
            ready.destination,
            ready.flags,
            ready.deadline,
            ready.number,
        )
        reason = run(handle, self._spin_ns, limit)
        highest = leave(handle) if reason == FINISHED else NOT_OVER
        return reason if highest == NOT_OVER else OVER + highest

    def _carry(self, ready: Ready, limit: int) -> None:
        """The short way of what `_only_one` gave; where it does not end well at once, the long way goes on with it."""
        index = self._longs[_QUEUED]
        self._submitted.popleft()
        try:
            reason = self._enter_and_run(ready, limit)
        except BaseException:  # from the keyboard: whoever drives next goes on
            if self._longs[_QUEUED] == index:
                self._submitted.appendleft(ready)
            else:
                self._in_flight[index] = ready.transfer()
            raise
        if reason >= OVER - 128:
            ready.end(reason - OVER)
        else:
            self._in_flight[index] = ready.transfer()
            self._reap(reason)

    def _fill(self) -> None:
        """Hand the engine what it has room for. Strictly in order: a source that cannot give yet holds up those behind it."""
        state, window = self._state, self._engine.window
        while self._sources and state["queued"] - state["head"] < RING:
            source = self._sources[0]
            transfer = source.pull()
            if transfer is None:
                if source.exhausted():
                    self._sources.popleft()
                    continue
                return
            index = int(state["queued"])
            window.transfers[index % RING] = transfer.record(self.elements[transfer.kind], self.shared_row)
            self._in_flight[index] = transfer
            state["queued"] = index + 1
            if source.exhausted():
                self._sources.popleft()

    def _arrange_exact(self) -> None:
        """Put the exact exchange of the last laid transfer's flagged blocks right behind it."""
        state, window = self._state, self._engine.window
        last = int(state["laid"]) - 1
        transfer = self._in_flight[last]
        unlaid = [self._in_flight.pop(index) for index in range(last + 1, int(state["queued"]))]
        state["queued"] = last + 1
        if unlaid:
            self._sources.appendleft(Listed(unlaid))
        exact = ExactBlocks(transfer, self.elements[BLOCKS], int(state["rank"]), int(state["workers"]))
        self._engine.counters[_BLOCKS_EXACT] += exact.blocks
        self._awaiting_exact[transfer] = 2
        signature = Signature("exact blocks", "float32", "sum", exact.blocks, int(transfer.signature[3]))
        pipeline = Pipeline(
            exact, signature, transfer.deadline, lambda _: self._half_done(transfer), transfer.fail
        )
        self._sources.appendleft(pipeline)
        window.transfers[last % RING]["released"] = 1

    def _half_done(self, transfer: Transfer) -> None:
        """A transfer with an exact exchange is done when both have ended."""
        self._awaiting_exact[transfer] -= 1
        if self._awaiting_exact[transfer] == 0:
            del self._awaiting_exact[transfer]
            transfer.done(transfer)

    def _reap(self, reason: int) -> None:
        """See to why the engine has returned: take the transfers that have their final status out of the ring."""
        if reason == EXACT_NEEDED:
            self._arrange_exact()
        state, transfers = self._state, self._engine.window.transfers
        for index in [index for index in self._in_flight if transfers[index % RING]["status"] > LAID]:
            entry = transfers[index % RING]
            if entry["status"] != DONE:
                raise self._failure(index)
            transfer = self._in_flight.pop(index)
            transfer.highest = int(entry["highest"])
            if transfer in self._awaiting_exact:
                self._half_done(transfer)
            else:
                transfer.done(transfer)
        state["head"] = min(self._in_flight, default=int(state["queued"]))

    def _failure(self, index: int) -> SwitchMLError:
        from switchml.errors import CollectiveTimeoutError

        window, state = self._engine.window, self._state
        transfer = self._in_flight[index]
        if window.transfers[index % RING]["status"] == MISMATCHED:
            workers, elements = int(state["workers"]), int(state["elements"])
            named = names_ranks(workers, elements)
            return CollectiveMismatchError(
                explain_mismatch(
                    self._engine.descriptor, transfer.signature, int(state["rank"]), workers, named
                )
            )
        return CollectiveTimeoutError(self._explain(self._oldest_position()))

    def _oldest_position(self) -> int:
        """Without a result, as the switch knows it."""
        slots = self._engine.window.slots
        waiting = slots[np.isin(slots["state"], (SENT, RESEND, ASKING, BLOCKED))]
        if waiting.size == 0:
            return int(self._state["end"])
        oldest = waiting[int(waiting["position"].argmin())]
        return oldest["position"] - oldest["base"]

    def _fail_everything(self, error: SwitchMLError) -> None:
        broken: list[Transfer | Source | Ready] = [*self._in_flight.values(), *self._sources]
        self._in_flight, self._sources = {}, deque()
        self._awaiting_exact.clear()
        for failed in broken:
            failed.fail(error)


def closed(job: str) -> WorkerClosedError:
    """The error of works that a worker leaves behind."""
    return WorkerClosedError(f"this worker has left job {job!r}")
