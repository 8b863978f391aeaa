"""Counters and meters; registers are plain lists or columns of an array (registers.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from switchml.p4runtime.entries import MeterRates


class CounterArray:
    """Packets and bytes, by index."""

    def __init__(self, size: int) -> None:
        self.packets = [0] * size
        self.bytes = [0] * size


@dataclass
class _Bucket:
    """Tokens are counted from the start of the switch, so that rounding does not add up."""

    rate: int
    burst: int
    tokens: int
    issued: int = 0

    def take(self, units: int, now: int) -> bool:
        issued = now * self.rate // 1_000_000
        self.tokens = min(self.tokens + issued - self.issued, self.burst)
        self.issued = issued
        if self.tokens < units:
            return False
        self.tokens -= units
        return True


class Meter:
    """Two rates, three colours (RFC 2698): 0 green, 1 yellow, 2 red. Without rates everything is green."""

    def __init__(self) -> None:
        self.rates: MeterRates | None = None
        self._committed = self._peak = _Bucket(0, 0, 0)

    def configure(self, rates: MeterRates | None, now: int) -> None:
        """Set the rates, with full buckets; None = everything is green. `now` in microseconds."""
        self.rates = rates
        if rates is not None:
            self._committed = _Bucket(rates.cir, rates.cburst, rates.cburst, now * rates.cir // 1_000_000)
            self._peak = _Bucket(rates.pir, rates.pburst, rates.pburst, now * rates.pir // 1_000_000)

    def colour(self, units: int, now: int) -> int:
        """The colour of `units` packets or bytes at `now`, in microseconds."""
        if self.rates is None:
            return 0
        if not self._peak.take(units, now):
            return 2
        return 0 if self._committed.take(units, now) else 1


class MeterArray:
    """Meters by index; those without rates are green.

    Args:
        unit: "packets" or "bytes".
        clock: microseconds.
    """

    def __init__(self, size: int, unit: str, clock: Callable[[], int]) -> None:
        self.meters: dict[int, Meter] = {}
        self.size = size
        self._by_packet = unit == "packets"
        self._clock = clock

    def units(self, length: int) -> int:
        """What a packet of `length` bytes costs."""
        return 1 if self._by_packet else length

    def execute(self, index: int, length: int) -> int:
        """The colour of a packet of `length` bytes."""
        meter = self.meters.get(index)
        return 0 if meter is None else meter.colour(self.units(length), self._clock())

    def configure(self, index: int, rates: MeterRates | None) -> None:
        """Set the rates of one meter; None = none."""
        if rates is None:
            self.meters.pop(index, None)
        else:
            self.meters.setdefault(index, Meter()).configure(rates, self._clock())
