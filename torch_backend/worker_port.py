"""What the process group needs of a worker, and the one place where it gets one.

`switchml.worker.Worker` fits these protocols; tests and groups of one rank put something else behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from switchml.torch_backend.discovery import Placement
from switchml.torch_backend.options import Options

Array = np.ndarray[Any, Any]


class PendingCollective(Protocol):
    """A collective in flight; see `switchml.worker.Work`."""

    def wait(self, timeout: float | None = None) -> Array: ...
    def done(self) -> bool: ...
    def exception(self) -> BaseException | None: ...
    def add_done_callback(self, fn: Callable[[Any], None], /) -> None: ...


class CollectiveWorker(Protocol):
    """One rank's connection to its job; see `switchml.worker.Worker`."""

    def allreduce(
        self,
        array: Array,
        op: str = "sum",
        *,
        out: Array | None = None,
        dtype: str | None = None,
        timeout: float | None = None,
        notify: bool = True,
    ) -> PendingCollective: ...
    def broadcast(
        self, array: Array, root: int = 0, *, timeout: float | None = None, notify: bool = True
    ) -> PendingCollective: ...
    def allgather(
        self, array: Array, *, out: Array | None = None, timeout: float | None = None, notify: bool = True
    ) -> PendingCollective: ...
    def barrier(self, *, timeout: float | None = None, notify: bool = True) -> PendingCollective: ...
    def counters(self) -> dict[str, int]: ...
    def leave(self) -> None: ...


OpenWorker = Callable[[Placement, Options, float, float], CollectiveWorker]
"""(placement, options, join timeout, collective timeout), both in seconds -> joined worker."""


def join_switch(
    placement: Placement, options: Options, join_timeout: float, timeout: float
) -> CollectiveWorker:
    """Join the job at the switch as `placement` says; raises what `Worker.join` raises."""
    from switchml.worker import Worker

    return Worker.join(
        placement.switch.address,
        job=placement.job,
        rank=placement.rank,
        world_size=placement.world_size,
        transport=options.transport,
        payload=options.payload,
        window=options.window,
        token=placement.switch.token,
        join_timeout=join_timeout,
        timeout=timeout,
        multicast=options.multicast,
    )
