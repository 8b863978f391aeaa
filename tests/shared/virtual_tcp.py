"""Bulk flows of TCP on a link of the virtual network, clocked by acknowledgements: Reno with a milder cut, Cubic, BBR."""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

from virtual_network import VirtualNetwork

from switchml.worker.window import FRAMING

SEGMENT = 1448
_ACKNOWLEDGEMENT = 52
_ARRIVES, _ANSWERED, _LOST, _PACE = 0, 1, 2, 3
_SECOND = 1_000_000_000


class _Segment(NamedTuple):
    """One on the way: when it left, and what had been acknowledged by then, and when that was."""

    sent: int
    answered: int
    answered_at: int


class VirtualTcp:
    """From one end of a worker's link to the other, from now on. A window that grows by a segment a round trip.

    Attributes:
        delivered: bytes.
    """

    def __init__(
        self, network: VirtualNetwork, there: int, back: int, *, keeps: float = 0.7, gathers: int = 0
    ) -> None:
        """Places are those of `VirtualNetwork._send`.

        Args:
            network: whose links it shares.
            there: where segments go.
            back: where acknowledgements go.
            keeps: the part of its window that a loss leaves, Cubic's by default.
            gathers: ns; acknowledgements within that are taken together, as where processes share cores, and as much leaves
                at once.
        """
        self._network, self._there, self._back, self._keeps = network, there, back, keeps
        self._gathers = gathers
        self._window, self._threshold = 10.0, float("inf")
        self._in_flight = 0
        self._recovered_at = 0
        self._round_trip = 0
        self._answered = self._answered_at = 0
        self._sequence = 0
        self._events: list[tuple[int, int, int, _Segment]] = []  # when, number, what
        self.now = network.now
        self.delivered = 0
        self._fill()

    def next_at(self) -> int:
        """When something happens next."""
        return self._events[0][0]

    def step(self) -> None:
        """The next thing happens."""
        self.now, _, what, segment = heapq.heappop(self._events)
        if what == _ARRIVES:
            self.delivered += SEGMENT
            self._carry(self._back, _ACKNOWLEDGEMENT, _ANSWERED, segment)
            return
        if what != _PACE:
            self._in_flight -= 1
        if what == _ANSWERED:
            self._round_trip = self.now - segment.sent
            self._answered += 1
            self._answered_at = self.now
            self._take(segment)
        elif what == _LOST:
            self._lose(segment)
        self._fill()

    def _take(self, segment: _Segment) -> None:
        """A segment is acknowledged."""
        self._window += 1.0 if self._window < self._threshold else self._growth()

    def _growth(self) -> float:
        return 1.0 / self._window

    def _lose(self, segment: _Segment) -> None:
        if segment.sent >= self._recovered_at:
            self._cut()
            self._recovered_at = self.now

    def _cut(self) -> None:
        self._window = self._threshold = max(2.0, self._keeps * self._window)

    def _fill(self) -> None:
        while self._in_flight < self._window:
            self._leave()

    def _leave(self) -> None:
        self._in_flight += 1
        segment = _Segment(self.now, self._answered, self._answered_at)
        self._carry(self._there, SEGMENT + _ACKNOWLEDGEMENT, _ARRIVES, segment)

    def _carry(self, place: int, length: int, what: int, segment: _Segment) -> None:
        conditions, busy = self._network.conditions, self._network._busy_until
        waits = max(0, busy[place] - self.now)
        bits = (length + FRAMING) * _SECOND
        if waits * conditions.rate + bits > conditions.queue * _SECOND:
            # Later segments tell, a round trip on.
            self._add(self.now + max(self._round_trip, 2 * conditions.delay), _LOST, segment)
            return
        busy[place] = self.now + waits + bits // conditions.rate
        at = busy[place] + conditions.delay
        if what == _ANSWERED and self._gathers > 0:
            at += -at % self._gathers
        self._add(at, what, segment)

    def _add(self, at: int, what: int, segment: _Segment) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at, self._sequence, what, segment))


class VirtualCubic(VirtualTcp):
    """As RFC 9438 has it: the window grows along a cubic curve through the last one at which something was lost."""

    _last = 0.0
    _origin = 0.0
    _inflection = 0.0
    _epoch = 0

    def _growth(self) -> float:
        if self._epoch == 0:
            self._epoch, self._origin = self.now, self._window
            self._inflection = (max(0.0, self._last - self._window) / 0.4) ** (1 / 3)
        passed = (self.now - self._epoch) / _SECOND
        aim = (
            max(self._last, self._origin)
            + 0.4 * (passed + self._round_trip / _SECOND - self._inflection) ** 3
        )
        friendly = self._origin + 3 * 0.3 / 1.7 * passed * _SECOND / max(1, self._round_trip)
        aim = min(max(aim, friendly), 1.5 * self._window)
        return max(0.0, aim - self._window) / self._window

    def _cut(self) -> None:
        # A flow that had more before leaves some of it to others.
        self._last = self._window * (1.7 / 2 if self._window < self._last else 1.0)
        self._epoch = 0
        super()._cut()


class VirtualBbr(VirtualTcp):
    """As the first version of BBR (Cardwell et al., 2016) has it: the highest rate of ten round trips times the shortest round
    trip of ten seconds, paced; losses change nothing.
    """

    _FULL, _GAINS = 2.885, (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def __init__(self, network: VirtualNetwork, there: int, back: int, *, gathers: int = 0) -> None:
        self._rates: deque[tuple[int, float]] = (
            deque()
        )  # round, segments a ns: falling, so that the first is the highest
        self._rounds, self._round_end = 0, 0
        self._shortest, self._shortest_at = 1 << 62, 0
        self._full_rate, self._full_rounds = 0.0, 0
        self._phase = "startup"
        self._gain, self._cycle, self._cycle_at = self._FULL, 0, 0
        self._probed_to = 0
        self._paced_to, self._waiting = 0, False
        super().__init__(network, there, back, gathers=gathers)

    @property
    def _rate(self) -> float:
        return self._rates[0][1] if self._rates else 10 / 1_000_000

    def _product(self) -> float:
        return self._rate * self._shortest if self._rates else 10.0

    def _take(self, segment: _Segment) -> None:
        ended = segment.answered >= self._round_end
        if ended:
            self._rounds += 1
            self._round_end = self._answered
        elapsed = self.now - max(segment.answered_at, 0)
        rate = (self._answered - segment.answered) / max(elapsed, self._round_trip, 1)
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._rounds, rate))
        while self._rates[0][0] < self._rounds - 9:
            self._rates.popleft()
        self._look(ended=ended)
        self._window = (
            4.0
            if self._phase == "look"
            else max(4.0, (self._FULL if self._phase == "startup" else 2.0) * self._product() + 3)
        )

    def _look(self, *, ended: bool) -> None:
        """What round trip and rate say about the phase."""
        old = self.now > self._shortest_at + 10 * _SECOND
        if self._round_trip <= self._shortest or old:
            self._shortest, self._shortest_at = self._round_trip, self.now
        if old and self._phase != "look":
            self._phase, self._gain, self._probed_to = "look", 1.0, 0
        if self._phase == "startup" and ended:
            grown = self._rate >= 1.25 * self._full_rate
            self._full_rounds = 0 if grown else self._full_rounds + 1
            self._full_rate = self._rate if grown else self._full_rate
            if self._full_rounds >= 3:
                self._phase, self._gain = "drain", 1 / self._FULL
        if self._phase == "drain" and self._in_flight <= self._product():
            self._cruise()
        if self._phase == "cruise":
            passed = self.now - self._cycle_at > self._shortest
            full = self._gain <= 1.0 or self._in_flight >= self._gain * self._product()
            if (passed and full) or (self._gain < 1.0 and self._in_flight <= self._product()):
                self._cycle, self._cycle_at = (self._cycle + 1) % 8, self.now
                self._gain = self._GAINS[self._cycle]
        if self._phase == "look":
            if self._probed_to == 0 and self._in_flight <= 4:
                self._probed_to = self.now + max(200_000_000, self._round_trip)
            if 0 < self._probed_to <= self.now:
                self._shortest_at = self.now
                self._cruise()

    def _cruise(self) -> None:
        self._phase, self._cycle, self._cycle_at, self._gain = "cruise", 2, self.now, 1.0

    def _lose(self, segment: _Segment) -> None:
        pass

    def _fill(self) -> None:
        while self._in_flight < self._window and self._paced_to <= self.now:
            self._leave()
            self._paced_to = self.now + int(1 / (self._gain * self._rate))
        if self._in_flight < self._window and not self._waiting:
            self._waiting = True
            self._add(self._paced_to, _PACE, _Segment(0, 0, 0))

    def step(self) -> None:
        """The next thing happens."""
        if self._events[0][2] == _PACE:
            self._waiting = False
        super().step()
