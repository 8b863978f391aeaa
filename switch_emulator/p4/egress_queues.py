"""The queues at the ports of a switch: rates, depths and priorities, without a clock of their own.

As those of BMv2's simple_switch (`--priority-queues`, `set_queue_rate`, `set_queue_depth`; include/bm/bm_sim/queueing.h): a
port has a queue a priority, each lets packets go at its own rate, and of those that may go the highest priority goes first. A
packet that finds its queue full is dropped. One thing is added, a rate of the port as a whole, for which its queues compete:
without it a priority changes little.

Times are microseconds, and never go back.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from switchml.errors import UsageError

T = TypeVar("T")

MOST_PRIORITIES = 32  # as in BMv2; v1model's three bits name eight
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class QueueLimits:
    """What the queues of every port allow.

    Attributes:
        queue_rate: packets a second that each queue lets go; 0 = without limit.
        port_rate: packets a second that a port lets go, all its queues together; 0 = without limit.
        depth: packets that wait in a queue at most.
        priorities: queues a port; the highest number goes first.

    Raises:
        UsageError: a value that makes no queue.
    """

    queue_rate: float = 0.0
    port_rate: float = 0.0
    depth: int = 64
    priorities: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.queue_rate < math.inf and 0 <= self.port_rate < math.inf):
            raise UsageError("the rate of a queue or port is a number of packets a second; 0 = without limit")
        if self.depth < 1:
            raise UsageError(f"a queue of {self.depth} packets lets nothing through")
        if not 1 <= self.priorities <= MOST_PRIORITIES:
            raise UsageError(f"a port has 1 to {MOST_PRIORITIES} queues, not {self.priorities}")


class Departure(NamedTuple, Generic[T]):
    """A packet that leaves its queue.

    Attributes:
        depth: how many it leaves behind there.
    """

    port: int
    priority: int
    item: T
    depth: int


class _Waiting(NamedTuple, Generic[T]):
    since: float  # from when its queue's rate lets it go
    number: int  # in the order of arrival
    item: T


class _Queue(Generic[T]):
    def __init__(self) -> None:
        self.waiting: deque[_Waiting[T]] = deque()
        self.next_free = -math.inf


class _Port(Generic[T]):
    def __init__(self, priorities: int) -> None:
        self.queues: list[_Queue[T]] = [_Queue() for _ in range(priorities)]
        self.next_free = -math.inf
        self.planned: tuple[float, int] | None = None  # its entry among the departures that counts

    def first(self) -> tuple[float, int] | None:
        """When the next packet may leave, and its number; None = none waits."""
        heads = [queue.waiting[0] for queue in self.queues if queue.waiting]
        if not heads:
            return None
        return min((max(head.since, self.next_free), head.number) for head in heads)


class EgressQueues(Generic[T]):
    """The queues of all ports. A state machine: `put` and `take` are told what time it is.

    Attributes:
        dropped_queue_full: packets that found their queue full.
        dropped_no_queue: packets with a priority that no queue has.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._depth = limits.depth
        self._priorities = limits.priorities
        self._queue_gap = _gap(limits.queue_rate)
        self._port_gap = _gap(limits.port_rate)
        self._ports: dict[int, _Port[T]] = {}
        self._departures: list[tuple[float, int, int]] = []  # when, the packet's number, port; a heap
        self._arrived = 0
        self.dropped_queue_full = 0
        self.dropped_no_queue = 0

    def depth(self, port: int, priority: int) -> int:
        """How many packets wait in a queue."""
        found = self._ports.get(port)
        return len(found.queues[priority].waiting) if found and priority < self._priorities else 0

    def put(self, port: int, priority: int, item: T, now: float) -> bool:
        """Let a packet wait for its turn. False: it was dropped and counted."""
        if priority >= self._priorities:
            self.dropped_no_queue += 1
            return False
        at = self._ports.get(port)
        if at is None:
            at = self._ports[port] = _Port(self._priorities)
        queue = at.queues[priority]
        if len(queue.waiting) >= self._depth:
            self.dropped_queue_full += 1
            return False
        since = max(now, queue.next_free)
        queue.next_free = since + self._queue_gap
        self._arrived += 1
        queue.waiting.append(_Waiting(since, self._arrived, item))
        self._plan(port, at)
        return True

    def due(self) -> float:
        """When `take` will have a packet; infinity = none waits."""
        departures = self._departures
        while departures:
            when, number, port = departures[0]
            if self._ports[port].planned == (when, number):
                return when
            heapq.heappop(departures)  # overtaken by another of its port
        return math.inf

    def take(self, now: float) -> Departure[T] | None:
        """The packet whose turn it is, or None while there is none."""
        when = self.due()
        if when > now:
            return None
        port = heapq.heappop(self._departures)[2]
        at = self._ports[port]
        # The highest of those that may go: one at least, the planned one.
        priority = max(
            p for p, queue in enumerate(at.queues) if queue.waiting and queue.waiting[0].since <= now
        )
        waiting = at.queues[priority].waiting
        item = waiting.popleft().item
        # From when it could have gone: a caller who comes late makes no rate lower.
        at.next_free = when + self._port_gap
        at.planned = None
        self._plan(port, at)
        return Departure(port, priority, item, len(waiting))

    def _plan(self, port: int, at: _Port[T]) -> None:
        first = at.first()
        if first is not None and first != at.planned:
            heapq.heappush(self._departures, (*first, port))
        at.planned = first


def _gap(rate: float) -> float:
    return _MICROSECONDS / rate if rate else 0.0
