"""How much went through the switch during a run, from the counters it reports."""

from __future__ import annotations

from dataclasses import dataclass

from switchml.outlook import on_copies, on_the_link
from switchml.protocol.counters import SWITCH_COUNTERS, copies_dropped

RETRANSMITTED = ("results_retransmitted", "dropped_duplicate")
"""What a switch does with a worker's retransmission: send the result again, or wait for the others."""
SENT_AGAIN = "workers_sent_again"
"""What workers have told the switch of themselves (`Resent`), beside its own counters."""


@dataclass(frozen=True)
class Traffic:
    """What the switch counted since the run began.

    Attributes:
        counters: by name.
        world_size: number of workers.
        active: seconds in which sums were made, in steps of the readings' distance.
        packet_rate: packets a second into the switch, at the last reading.
        sharing: workers that send over one link to a switch.
    """

    counters: dict[str, int]
    world_size: int
    active: float = 0.0
    packet_rate: float = 0.0
    sharing: float = 0.0

    @property
    def bytes(self) -> int:
        """Into the switch and out of it."""
        return self.counters.get("bytes_received", 0) + self.counters.get("bytes_sent", 0)

    @property
    def retransmissions(self) -> int:
        """Packets that workers sent again, as far as the switch can tell."""
        return sum(self.counters.get(name, 0) for name in RETRANSMITTED)

    @property
    def sentences(self) -> list[str]:
        """What is worth a word."""
        sent_again, needless = self.counters.get(SENT_AGAIN, 0), copies_dropped(self.counters)
        told = on_copies(self.counters.get("packets_received", 0), sent_again, needless)
        return [sentence for sentence in (told, on_the_link(self.sharing)) if sentence]

    @property
    def elements(self) -> int:
        """Aggregated tensor elements: each counts once, however many workers there are."""
        return self.counters.get("elements_added", 0) // self.world_size

    @property
    def elements_per_second(self) -> float:
        """ATE/s (NSDI 2021, section 5.1) while sums were made; 0 when none were."""
        return self.elements / self.active if self.active else 0.0

    def named(self, prefix: str) -> dict[str, int]:
        """The counters whose names begin so and that are not zero, in the table's order."""
        names = (counter.name for counter in SWITCH_COUNTERS if counter.name.startswith(prefix))
        return {name: self.counters[name] for name in names if self.counters.get(name)}


class Meter:
    """Adds up readings of a switch's counters. The first one is where the run begins."""

    def __init__(self, begin: dict[str, int], now: float, world_size: int) -> None:
        self._begin = begin
        self._latest = begin
        self._at = now
        self.traffic = Traffic({}, world_size)

    def read(self, counters: dict[str, int], now: float, sharing: float = 0.0) -> Traffic:
        """Takes a reading, at `now` seconds, with `sharing` workers on a link; returns the traffic up to it."""
        elapsed = max(now - self._at, 1e-9)
        added = _grown("elements_added", self._latest, counters)
        packets = _grown("packets_received", self._latest, counters)
        self._latest, self._at = counters, now
        self.traffic = Traffic(
            counters={name: value - self._begin.get(name, 0) for name, value in counters.items()},
            world_size=self.traffic.world_size,
            active=self.traffic.active + (elapsed if added else 0.0),
            packet_rate=packets / elapsed,
            sharing=max(sharing, self.traffic.sharing),
        )
        return self.traffic


def _grown(name: str, before: dict[str, int], after: dict[str, int]) -> int:
    return after.get(name, 0) - before.get(name, 0)
