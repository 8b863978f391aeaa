"""The worker of a group of one rank: nobody to meet, so no switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Finished:
    """A collective that was over at once."""

    def __init__(self, result: Array) -> None:
        self._result = result

    def wait(self, timeout: float | None = None) -> Array:
        return self._result

    def done(self) -> bool:
        return True

    def exception(self) -> BaseException | None:
        return None

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        fn(self)


class SoloWorker:
    """Every reduction of one rank's values is those values."""

    def allreduce(
        self,
        array: Array,
        op: str = "sum",
        *,
        out: Array | None = None,
        dtype: str | None = None,
        timeout: float | None = None,
        notify: bool = True,
    ) -> Finished:
        return self._deliver(array, out)

    def broadcast(
        self, array: Array, root: int = 0, *, timeout: float | None = None, notify: bool = True
    ) -> Finished:
        return Finished(array)

    def allgather(
        self, array: Array, *, out: Array | None = None, timeout: float | None = None, notify: bool = True
    ) -> Finished:
        return self._deliver(array[np.newaxis], out)

    def barrier(self, *, timeout: float | None = None, notify: bool = True) -> Finished:
        return Finished(np.empty(0, np.uint8))

    def counters(self) -> dict[str, int]:
        return {}

    def leave(self) -> None:
        return

    @staticmethod
    def _deliver(result: Array, out: Array | None) -> Finished:
        if out is None:
            return Finished(result)
        np.copyto(out, result)
        return Finished(out)
