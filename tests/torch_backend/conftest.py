"""Process groups whose ranks are threads of the test, over a worker made of torch's in-memory store.

What a collective does on a switch is tested elsewhere; here it is what torch makes of it. The worker below adds up in
numpy whatever the ranks put into the store.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from free_port import free_port

from switchml.errors import (
    CollectiveMismatchError,
    CollectiveTimeoutError,
    WorkerClosedError,
)
from switchml.torch_backend.creation import create_process_group
from switchml.torch_backend.options import Options

Array = np.ndarray[Any, Any]

PROGRAMS = Path(__file__).parent / "programs"

COMBINE = {
    "sum": np.add,
    "avg": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}


def combined(arrays: list[Array], op: str, dtype: str | None) -> Array:
    kind = arrays[0].dtype
    if dtype == "bfloat16":
        tensors = [torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float() for array in arrays]
        total = combined([tensor.numpy() for tensor in tensors], op, None)
        return torch.from_numpy(total).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    total = reduce(COMBINE[op], arrays)
    return (total / len(arrays) if op == "avg" else total).astype(kind)


class StorePart:
    """A collective in flight."""

    def __init__(self, worker: StoreWorker) -> None:
        self.worker = worker
        self.ended = threading.Event()
        self.result: Array | None = None
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[Any], None]] = []
        self.lock = threading.Lock()

    def end(self, result: Array | None, error: BaseException | None) -> None:
        with self.lock:
            if self.ended.is_set():
                return
            self.result, self.error = result, error
            self.ended.set()
        for callback in self.callbacks:
            callback(self)

    def wait(self, timeout: float | None = None) -> Array:
        self.worker.advance(self, timeout)
        if not self.ended.wait(timeout):
            raise CollectiveTimeoutError("still in flight")
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def done(self) -> bool:
        return self.ended.is_set()

    def exception(self) -> BaseException | None:
        return self.error

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        with self.lock:
            if not self.ended.is_set():
                self.callbacks.append(fn)
                return
        fn(self)


class StoreWorker:
    """Collectives through a store, one after the other, on one thread: blocking it stops them all.

    As with the real worker, a collective submitted with `notify=False` advances only inside `wait`.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout: float) -> None:
        self.store, self.rank, self.world_size, self.timeout = store, rank, world_size, timeout
        self.sequence = 0
        self.calls: list[tuple[str, float | None, bool]] = []
        self.fail_next: BaseException | None = None
        self.queue: deque[tuple[StorePart, Callable[[], Array], bool]] = deque()
        self.changed = threading.Condition()
        self.driving = threading.RLock()
        self.closed = False
        self.engine = threading.Thread(target=self._run, name="store-worker", daemon=True)
        self.engine.start()

    def allreduce(
        self, array: Array, op: str = "sum", *, out: Any = None, dtype: Any = None, **how: Any
    ) -> StorePart:
        assert array.ndim == 1
        assert array.flags.c_contiguous
        target = array if out is None else out

        def finish(arrays: list[Array]) -> Array:
            np.copyto(target, combined(arrays, op, dtype))
            return target

        return self._submit(f"allreduce {op} {dtype or array.dtype} {array.size}", array, finish, **how)

    def broadcast(self, array: Array, root: int = 0, **how: Any) -> StorePart:
        def finish(arrays: list[Array]) -> Array:
            np.copyto(array, arrays[root])
            return array

        return self._submit(f"broadcast {root} {array.dtype} {array.size}", array, finish, **how)

    def allgather(self, array: Array, *, out: Any = None, **how: Any) -> StorePart:
        return self._submit(f"allgather {array.dtype} {array.size}", array, np.stack, **how)

    def barrier(self, **how: Any) -> StorePart:
        return self._submit("barrier", np.empty(0, np.uint8), lambda arrays: arrays[0], **how)

    def counters(self) -> dict[str, int]:
        return {"packets_sent": len(self.calls)}

    def leave(self) -> None:
        with self.changed:
            self.closed = True
            waiting, self.queue = self.queue, deque()
            self.changed.notify_all()
        for part, _, _ in waiting:
            part.end(None, WorkerClosedError("left"))

    def _submit(
        self,
        what: str,
        array: Array,
        finish: Callable[[list[Array]], Array],
        *,
        timeout: float | None = None,
        notify: bool = True,
    ) -> StorePart:
        self.calls.append((what, timeout, notify))
        part = StorePart(self)
        self.sequence += 1
        key = f"collective/{self.sequence}"
        error, self.fail_next = self.fail_next, None

        def exchange() -> Array:
            if error is not None:
                raise error
            self.store.set(f"{key}/{self.rank}", pickle.dumps((what, array)))
            keys = [f"{key}/{rank}" for rank in range(self.world_size)]
            try:
                self.store.wait(keys, timedelta(seconds=self.timeout if timeout is None else timeout))
            except dist.DistStoreError as late:
                raise CollectiveTimeoutError(f"{what}: a rank is missing") from late
            said, arrays = zip(*(pickle.loads(self.store.get(one)) for one in keys), strict=True)
            if len(set(said)) > 1:
                raise CollectiveMismatchError(f"ranks disagree: {said}")
            return finish(list(arrays))

        with self.changed:
            if self.closed:
                raise WorkerClosedError("left")
            self.queue.append((part, exchange, notify))
            self.changed.notify_all()
        return part

    def advance(self, wanted: StorePart, timeout: float | None) -> None:
        """Drive the queue from a caller's thread."""
        if not self.driving.acquire(timeout=-1 if timeout is None else timeout):
            return
        try:
            while not wanted.done():
                with self.changed:
                    if not self.queue:
                        return
                    part, exchange, _ = self.queue.popleft()
                self._perform(part, exchange)
        finally:
            self.driving.release()

    def _perform(self, part: StorePart, exchange: Callable[[], Array]) -> None:
        try:
            result = exchange()
        except Exception as error:
            part.end(None, error)
        else:
            part.end(result, None)

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
                    part, exchange, _ = self.queue.popleft()
                self._perform(part, exchange)


class Ranks:
    """Runs a function on every rank of a fresh group, each rank a thread."""

    def __init__(self) -> None:
        self.workers: dict[int, StoreWorker] = {}
        self.groups: list[Any] = []

    def run(
        self,
        world_size: int,
        body: Callable[[Any, int], Any],
        *,
        timeout: float = 20.0,
        options: Options | None = None,
    ) -> list[Any]:
        """`body(group, rank)` on each; returns what each returned, by rank."""
        store = dist.HashStore()

        def open_worker(placement: Any, options: Any, join_timeout: float, timeout: float) -> StoreWorker:
            worker = StoreWorker(dist.PrefixStore(placement.job, store), placement.rank, world_size, timeout)
            self.workers[placement.rank] = worker
            return worker

        def rank_thread(rank: int) -> Any:
            described = SimpleNamespace(
                store=store,
                group_rank=rank,
                group_size=world_size,
                timeout=timedelta(seconds=timeout),
                group_id="test",
                global_ranks_in_group=[],
            )
            group = create_process_group(
                described, options or Options(switch="nowhere:1"), open_worker=open_worker
            )
            self.groups.append(group)
            return body(group, rank)

        with ThreadPoolExecutor(world_size) as threads:
            return [future.result() for future in [threads.submit(rank_thread, r) for r in range(world_size)]]


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    for group in made.groups:
        group.shutdown()


@dataclass
class RankProcess:
    """One rank of a program in programs/."""

    process: subprocess.Popen[str]
    stdout: str = ""
    stderr: str = ""

    @property
    def report(self) -> Any:
        """The JSON on its last line."""
        assert self.stdout.strip(), self.stderr
        return json.loads(self.stdout.strip().splitlines()[-1])


class Launcher:
    """Starts programs, one process a rank, over loopback; ends what is left of them."""

    def __init__(self) -> None:
        self.started: list[RankProcess] = []

    def start(self, program: str, world_size: int, *arguments: str, **environment: str) -> list[RankProcess]:
        shared = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(world_size),
            "OMP_NUM_THREADS": "1",
        }
        shared.update(environment)
        command = [sys.executable, "-P", str(PROGRAMS / program), *arguments]
        fresh = [
            RankProcess(
                subprocess.Popen(
                    command,
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in range(world_size)
        ]
        self.started += fresh
        return fresh

    def finish(self, processes: list[RankProcess], timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        for rank in processes:
            rank.stdout, rank.stderr = rank.process.communicate(timeout=max(0.1, deadline - time.monotonic()))

    def run(self, program: str, world_size: int, *arguments: str, **environment: str) -> list[Any]:
        """The reports of all ranks, which must all end well."""
        processes = self.start(program, world_size, *arguments, **environment)
        self.finish(processes)
        for rank in processes:
            assert rank.process.returncode == 0, rank.stderr
        return [rank.report for rank in processes]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    yield made
    for rank in made.started:
        if rank.process.poll() is None:
            rank.process.kill()
            rank.process.communicate()
