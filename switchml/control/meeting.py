"""Barriers and broadcasts of callers that know each other by number alone. No I/O: the callers wait for futures.

Each class keeps what is under way. `arrive` says what the caller waits for; a caller that gives up has to `depart`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Gathering:
    """One barrier: `done` once all have come."""

    workers: int
    done: asyncio.Future[None]
    arrived: int = 0


class Barriers:
    """Barriers of different groups are told apart by the number of workers."""

    def __init__(self) -> None:
        self._open: dict[int, Gathering] = {}

    def arrive(self, workers: int) -> Gathering:
        gathering = self._open.get(workers)
        if gathering is None:
            gathering = Gathering(workers, asyncio.get_running_loop().create_future())
            self._open[workers] = gathering
        gathering.arrived += 1
        if gathering.arrived >= workers:
            del self._open[workers]
            gathering.done.set_result(None)
        return gathering

    def depart(self, gathering: Gathering) -> None:
        """A caller waits no more; no effect on a barrier that is done."""
        if not gathering.done.done():
            gathering.arrived -= 1
            if gathering.arrived == 0:
                del self._open[gathering.workers]


@dataclass(eq=False)
class Telling:
    """One broadcast: `value` once the root has called."""

    value: asyncio.Future[int]
    ranks: set[int] = field(default_factory=set)


class Broadcasts:
    """A rank's n-th call with the same root and number of workers belongs to the n-th broadcast."""

    def __init__(self) -> None:
        self._open: dict[Hashable, list[Telling]] = {}

    def arrive(self, value: int, rank: int, workers: int, root: int) -> Telling:
        tellings = self._open.setdefault((workers, root), [])
        telling = next((each for each in tellings if rank not in each.ranks), None)
        if telling is None:
            telling = Telling(asyncio.get_running_loop().create_future())
            tellings.append(telling)
        telling.ranks.add(rank)
        if rank == root:
            telling.value.set_result(value)
        self._drop(workers, root, len(telling.ranks) >= workers, telling)
        return telling

    def depart(self, telling: Telling, rank: int, workers: int, root: int) -> None:
        """A caller waits no more; no effect once the value is there."""
        if not telling.value.done():
            telling.ranks.discard(rank)
            self._drop(workers, root, not telling.ranks, telling)

    def _drop(self, workers: int, root: int, over: bool, telling: Telling) -> None:
        if over:
            tellings = self._open[workers, root]
            tellings.remove(telling)
            if not tellings:
                del self._open[workers, root]
