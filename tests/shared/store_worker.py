"""A worker that carries the library's collectives through torch's in-memory store, for ranks that are threads of a test."""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import torch.distributed as dist

from switchml.errors import CollectiveMismatchError, CollectiveTimeoutError, SwitchMLError, WorkerClosedError
from switchml.torch_backend.discovery import Placement
from switchml.torch_backend.options import Options
from switchml.worker.collectives import Call, Collectives
from switchml.worker.window import BLOCKS
from switchml.worker.work import Work

Array = np.ndarray[Any, Any]
LOOK_SECONDS = 0.1  # between two looks whether a wait was aborted
Job = tuple[Work, Callable[[], None], bool]


class StoreWorker(Collectives):
    """What a switch does to transfers is done in numpy by every rank, one collective after the other, on one thread:
    blocking it stops them all.

    As with the real worker, a collective submitted with `notify=False` advances only inside `wait`.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout: float) -> None:
        self.store, self.rank, self.world_size, self.timeout = store, rank, world_size, timeout
        self.sequence = 0
        self.bytes = 0
        self.calls: list[tuple[str, float | None, bool]] = []
        self.fail_next: BaseException | None = None
        self.queue: deque[Job] = deque()
        self.changed = threading.Condition()
        self.driving = threading.RLock()
        self.closed = False
        self.aborted: SwitchMLError | None = None
        self.thread = threading.Thread(target=self._run, name="store-worker", daemon=True)
        self.thread.start()

    def counters(self) -> dict[str, int]:
        return {"packets_sent": len(self.calls), "bytes_sent": self.bytes}

    def abort(self, error: SwitchMLError) -> None:
        self.aborted = error

    def leave(self) -> None:
        with self.changed:
            self.closed = True
            waiting, self.queue = self.queue, deque()
            self.changed.notify_all()
        self.aborted = WorkerClosedError("left")
        for work, _, _ in waiting:
            work.finish(self.aborted)
        # Inside the store at the interpreter's end it would end the process ("terminate called without an active exception").
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        said = call.signature
        what = f"{said.collective} {said.op} {said.dtype} {said.elements}"
        self.calls.append((what, timeout, notify))
        self.bytes += call.source.nbytes
        self.sequence += 1
        key = f"collective/{self.sequence}"
        error, self.fail_next = self.fail_next, None
        limit = timedelta(seconds=self.timeout if timeout is None else timeout)
        work = Work(self, what, call.result)

        def exchange() -> None:
            if error is not None:
                raise error
            strategy = call.strategy()
            for segment in range(strategy.segments):
                part = strategy.load(segment, 0)
                mine = (str(said), part.first, part.source)
                total = np.zeros(part.count, np.float32 if part.kind == BLOCKS else np.uint32)
                with np.errstate(all="ignore"):
                    for first, words in self._all(f"{key}/{segment}", mine, limit):
                        total[first : first + words.size] += words
                if part.rounding.feedback:
                    part.source[...] = 0  # nothing is rounded here
                part.destination[...] = total[part.share.of(slice(0, part.count))]
                strategy.store(segment, 0)
            call.finish()

        with self.changed:
            if self.closed:
                raise WorkerClosedError("left")
            self.queue.append((work, exchange, notify))
            self.changed.notify_all()
        return work

    def _all(self, key: str, mine: tuple[str, int, Array], limit: timedelta) -> list[tuple[int, Array]]:
        """What each rank gives, in the order of ranks."""
        self.store.set(f"{key}/{self.rank}", pickle.dumps(mine))
        keys = [f"{key}/{rank}" for rank in range(self.world_size)]
        deadline = time.monotonic() + limit.total_seconds()
        while (left := deadline - time.monotonic()) > 0:
            if self.aborted is not None:
                raise self.aborted
            try:
                self.store.wait(keys, timedelta(seconds=min(left, LOOK_SECONDS)))
                break
            except dist.DistStoreError:
                continue
        else:
            raise CollectiveTimeoutError(f"{mine[0]}: a rank is missing")
        given = [pickle.loads(self.store.get(one)) for one in keys]
        if len({said for said, _, _ in given}) > 1:
            raise CollectiveMismatchError(f"ranks disagree: {[said for said, _, _ in given]}")
        return [(first, words) for _, first, words in given]

    def until(self, work: Work, timeout: float | None) -> bool:
        """Drive the queue from a caller's thread."""
        if not self.driving.acquire(timeout=-1 if timeout is None else timeout):
            return False
        try:
            while not work.done():
                with self.changed:
                    if not self.queue:
                        break
                    job = self.queue.popleft()
                self._perform(job)
        finally:
            self.driving.release()
        return work.wait_event(timeout)

    def _perform(self, job: Job) -> None:
        work, exchange, _ = job
        try:
            exchange()
        except Exception as error:
            work.finish(error)
        else:
            work.finish()

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or any(notify for _, _, notify in self.queue))
                if self.closed:
                    return
            with self.driving:
                with self.changed:
                    if not any(notify for _, _, notify in self.queue):
                        continue
                    job = self.queue.popleft()
                self._perform(job)


class StoreJobs:
    """Opens the workers of a test's ranks.

    Attributes:
        workers: the last one of each rank.
    """

    def __init__(self, store: Any, world_size: int) -> None:
        self._store, self._world_size = store, world_size
        self.workers: dict[int, StoreWorker] = {}

    def open(
        self, placement: Placement, options: Options, join_timeout: float, timeout: float
    ) -> StoreWorker:
        """As `switchml.torch_backend.membership.join_switch`."""
        job = dist.PrefixStore(placement.job, self._store)
        worker = StoreWorker(job, placement.rank, self._world_size, timeout)
        worker.wire = options.wire
        self.workers[placement.rank] = worker
        return worker


def on_every_rank(world_size: int, body: Callable[[int], Any]) -> list[Any]:
    """`body(rank)` on a thread each; returns what each returned, by rank."""
    with ThreadPoolExecutor(world_size) as threads:
        return [future.result() for future in [threads.submit(body, rank) for rank in range(world_size)]]
