"""Barriers and broadcasts of callers that know each other by number alone. No I/O: the callers wait for futures.

Each class keeps what is under way. `arrive` says what the caller waits for; a caller that gives up has to `depart`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(eq=False)
class PendingBarrier:
    """One barrier: `done` once all have come."""

    workers: int
    done: asyncio.Future[None]
    arrived: int = 0


class Barriers:
    """Barriers of different groups are told apart by the number of workers."""

    def __init__(self) -> None:
        self._open: dict[int, PendingBarrier] = {}

    def arrive(self, workers: int) -> PendingBarrier:
        """A caller of a barrier of so many workers; it waits for `done`."""
        barrier = self._open.get(workers)
        if barrier is None:
            barrier = PendingBarrier(workers, asyncio.get_running_loop().create_future())
            self._open[workers] = barrier
        barrier.arrived += 1
        if barrier.arrived >= workers:
            del self._open[workers]
            barrier.done.set_result(None)
        return barrier

    def depart(self, barrier: PendingBarrier) -> None:
        """A caller waits no more; no effect on a barrier that is done."""
        if not barrier.done.done():
            barrier.arrived -= 1
            if barrier.arrived == 0:
                del self._open[barrier.workers]


@dataclass(eq=False)
class PendingBroadcast:
    """One broadcast: `value` once the root has called."""

    value: asyncio.Future[int]
    ranks: set[int] = field(default_factory=set)


class Broadcasts:
    """A rank's n-th call with the same root and number of workers belongs to the n-th broadcast."""

    def __init__(self) -> None:
        self._open: dict[Hashable, list[PendingBroadcast]] = {}

    def arrive(self, value: int, rank: int, workers: int, root: int) -> PendingBroadcast:
        """A caller of a broadcast; it waits for `value`.

        Args:
            value: what the root sends; not used of the others.
            rank: the caller's.
            workers: how many take part.
            root: rank of the sender.
        """
        pending = self._open.setdefault((workers, root), [])
        broadcast = next((each for each in pending if rank not in each.ranks), None)
        if broadcast is None:
            broadcast = PendingBroadcast(asyncio.get_running_loop().create_future())
            pending.append(broadcast)
        broadcast.ranks.add(rank)
        if rank == root:
            broadcast.value.set_result(value)
        self._drop(workers, root, len(broadcast.ranks) >= workers, broadcast)
        return broadcast

    def depart(self, broadcast: PendingBroadcast, rank: int, workers: int, root: int) -> None:
        """A caller waits no more; no effect once the value is there."""
        if not broadcast.value.done():
            broadcast.ranks.discard(rank)
            self._drop(workers, root, not broadcast.ranks, broadcast)

    def _drop(self, workers: int, root: int, over: bool, broadcast: PendingBroadcast) -> None:
        if over:
            pending = self._open[workers, root]
            pending.remove(broadcast)
            if not pending:
                del self._open[workers, root]
