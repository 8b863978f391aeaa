"""A stand-in for a GPU's stream: a thread that runs what is queued, in order, some time later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import torch
import torch_kernels
from torch.futures import Future


class HostStream:
    """A side stream of the CPU. The caller's own stream is the caller's thread. Close it in the end."""

    def __init__(self) -> None:
        self.kernels: ModuleType = torch_kernels
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="switchml-host-stream", daemon=True)
        self._thread.start()

    def run(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)

    def follow_caller(self) -> None:
        return

    def follow(self, mark: _HostMark) -> None:
        self._tasks.put(mark.synchronize)

    def mark(self) -> _HostMark:
        mark = _HostMark()
        self._tasks.put(mark.reached.set)
        return mark

    def gate(self) -> _HostGate:
        return _HostGate(self._tasks)

    def uses(self, tensor: torch.Tensor) -> None:
        return

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def future(self) -> Future[Any]:
        return Future()

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join(10)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # or its tensors live until the next one


class _HostMark:
    def __init__(self) -> None:
        self.reached = threading.Event()

    def synchronize(self) -> None:
        self.reached.wait()


class _HostGate:
    def __init__(self, tasks: SimpleQueue[Callable[[], object] | None]) -> None:
        self._tasks = tasks
        self._openings = threading.Semaphore(0)

    def close(self) -> None:
        self._tasks.put(self._openings.acquire)

    def open(self) -> None:
        self._openings.release()
