"""Ranks as threads of the test, over a worker that adds up in numpy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import torch
import torch.distributed as dist
from host_stream import HostStream

from switchml.torch_backend.cuda.staged import Streams
from switchml.torch_backend.hooks.lanes import WIRES
from switchml.torch_backend.hooks.session import Session
from switchml.torch_backend.options import Options

Array = np.ndarray[Any, Any]


class Part:
    """A collective in flight."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[Any], None]] = []
        self.lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> Array:
        assert self.ended.wait(20 if timeout is None else timeout)
        if self.error is not None:
            raise self.error
        return self.array

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

    def end(self) -> None:
        with self.lock:
            self.ended.set()
        for callback in self.callbacks:
            callback(self)


class Board:
    """The switch of one job: all-reduces meet by their number, and must be the same ones."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.lock = threading.Lock()
        self.calls: dict[int, list[tuple[tuple[Any, ...], Part]]] = {}

    def add(self, number: int, what: tuple[Any, ...], part: Part) -> None:
        with self.lock:
            here = self.calls.setdefault(number, [])
            here.append((what, part))
            complete = len(here) == self.world_size
        if complete:
            self._reduce(here)

    @staticmethod
    def _reduce(here: list[tuple[tuple[Any, ...], Part]]) -> None:
        kinds = {what for what, _ in here}
        if len(kinds) > 1:
            for _, part in here:
                part.error = RuntimeError(f"ranks disagree: {kinds}")
                part.end()
            return
        op, dtype = here[0][0][:2]
        arrays = [_readable(part.array, dtype) for _, part in here]
        with np.errstate(all="ignore"):
            total = np.max(arrays, axis=0) if op == "max" else sum(arrays[1:], arrays[0])
            if op == "avg":
                total = total / arrays[0].dtype.type(len(arrays))
        for _, part in here:
            part.array[...] = _stored(total, dtype)
            part.end()


def _readable(array: Array, dtype: str) -> Array:
    """A copy; bfloat16, which travels as uint16, as the float32 values."""
    return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else array.copy()


def _stored(array: Array, dtype: str) -> Array:
    if dtype != "bfloat16":
        return array
    return torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint16)


class BoardWorker:
    def __init__(self, board: Board) -> None:
        self.board = board
        self.number = 0
        self.sent = 0

    def allreduce(self, array: Array, op: str = "sum", *, dtype: str | None = None, **how: Any) -> Part:
        part = Part(array)
        self.number += 1
        self.sent += array.nbytes
        self.board.add(self.number, (op, dtype or array.dtype.name, array.size), part)
        return part

    def counters(self) -> dict[str, int]:
        return {"bytes_sent": self.sent}

    def leave(self) -> None:
        return


class Ranks:
    """Runs a function on every rank of a session, each rank a thread."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.host_streams: list[HostStream] = []

    def open_streams(self, device: torch.device, workers: int) -> Streams:
        """The stand-in for a GPU's."""
        down, up = HostStream(), HostStream()
        self.host_streams += [down, up]
        return Streams(down, up)

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for stream in self.host_streams:
            stream.close()

    def run(
        self,
        world_size: int,
        wire: str,
        body: Callable[[Session, int], Any],
        *,
        feedback: bool = True,
        seed: int = 0,
    ) -> list[Any]:
        """`body(session, rank)` on each; returns what each returned, by rank."""
        store = dist.HashStore()
        boards: dict[str, Board] = {}
        lock = threading.Lock()

        def open_worker(placement: Any, options: Any, join_timeout: float, timeout: float) -> BoardWorker:
            with lock:
                board = boards.setdefault(placement.job, Board(world_size))
            return BoardWorker(board)

        def rank_thread(rank: int) -> Any:
            session = Session(
                store,
                rank,
                world_size,
                wire=WIRES.get(wire),
                feedback=feedback,
                seed=seed,
                timeout=timedelta(seconds=20),
                options=Options(switch="nowhere:1"),
                open_worker=open_worker,
                open_streams=self.open_streams,
            )
            self.sessions.append(session)
            return body(session, rank)

        with ThreadPoolExecutor(world_size) as threads:
            return [future.result() for future in [threads.submit(rank_thread, r) for r in range(world_size)]]


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    made = Ranks()
    yield made
    made.close()
