"""Ranks that are threads of the test: what `switchml.learn` wants of a worker, without a switch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from switchml.learn import over

T = TypeVar("T")
_SECONDS = 240.0  # a thread whose partner has failed must not wait for ever


class _Done:
    def __init__(self, result: np.ndarray) -> None:
        self._result = result

    def wait(self) -> np.ndarray:
        return self._result


class RankInThread:
    """One of several, that meet at a barrier."""

    def __init__(self, rank: int, rows: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, len(rows)
        self._rows, self._barrier = rows, barrier

    def _meet(self, array: np.ndarray) -> np.ndarray:
        self._barrier.wait(_SECONDS)
        self._rows[self.rank] = array.copy()
        self._barrier.wait(_SECONDS)
        return np.stack(self._rows)

    def allreduce(self, array: np.ndarray, op: str, *, notify: bool) -> _Done:
        rows = self._meet(array)
        return _Done({"sum": np.add, "max": np.maximum}[op].reduce(rows, dtype=array.dtype))

    def allgather(self, array: np.ndarray, *, notify: bool) -> _Done:
        return _Done(self._meet(array))


def on_ranks(size: int, work: Callable[[int], T]) -> list[T | Exception]:
    """What `work(rank)` came to on each of `size` ranks, an exception included."""
    rows: list[Any] = [None] * size
    barrier = threading.Barrier(size)

    def run(rank: int) -> T | Exception:
        with over(RankInThread(rank, rows, barrier)):
            try:
                return work(rank)
            except Exception as error:
                return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))
