"""A bulk flow of TCP on a link of the virtual network: AIMD, clocked by acknowledgements."""

from __future__ import annotations

import heapq

from virtual_network import VirtualNetwork

from switchml.worker.congestion import FRAMING

SEGMENT = 1448
_ACKNOWLEDGEMENT = 52
_ARRIVES, _ANSWERED, _LOST = 0, 1, 2


class VirtualTcp:
    """From one end of a worker's link to the other, from time 0 on.

    Attributes:
        delivered: bytes.
    """

    def __init__(self, network: VirtualNetwork, there: int, back: int, *, keeps: float = 0.7) -> None:
        """Places are those of `VirtualNetwork._send`. keeps: the part of its window that a loss leaves, Cubic's by default."""
        self._network, self._there, self._back, self._keeps = network, there, back, keeps
        self._window, self._threshold = 10.0, float("inf")
        self._in_flight = 0
        self._recovered_at = 0
        self._round_trip = 0
        self._sequence = 0
        self._events: list[tuple[int, int, int, int]] = []  # when, number, what, when the segment was sent
        self.now = 0
        self.delivered = 0
        self._fill()

    def next_at(self) -> int:
        """When something happens next."""
        return self._events[0][0]

    def step(self) -> None:
        """The next thing happens."""
        self.now, _, what, sent = heapq.heappop(self._events)
        if what == _ARRIVES:
            self.delivered += SEGMENT
            self._carry(self._back, _ACKNOWLEDGEMENT, _ANSWERED, sent)
            return
        self._in_flight -= 1
        if what == _ANSWERED:
            self._round_trip = self.now - sent
            self._window += 1.0 if self._window < self._threshold else 1.0 / self._window
        elif sent >= self._recovered_at:
            self._window = self._threshold = max(2.0, self._keeps * self._window)
            self._recovered_at = self.now
        self._fill()

    def _fill(self) -> None:
        while self._in_flight < self._window:
            self._in_flight += 1
            self._carry(self._there, SEGMENT + _ACKNOWLEDGEMENT, _ARRIVES, self.now)

    def _carry(self, place: int, length: int, what: int, sent: int) -> None:
        conditions, busy = self._network.conditions, self._network._busy_until
        waits = max(0, busy[place] - self.now)
        bits = (length + FRAMING) * 1_000_000_000
        if waits * conditions.rate + bits > conditions.queue * 1_000_000_000:
            # Later segments tell, a round trip on.
            self._add(self.now + max(self._round_trip, 2 * conditions.delay), _LOST, sent)
            return
        busy[place] = self.now + waits + bits // conditions.rate
        self._add(busy[place] + conditions.delay, what, sent)

    def _add(self, at: int, what: int, sent: int) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at, self._sequence, what, sent))
