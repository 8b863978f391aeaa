"""Medians with their minimum and maximum, and ratios of interleaved measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with the extremes it was taken from."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises `ValueError` when there are no values."""
        if not values:
            raise ValueError("a spread needs at least one value")
        return cls(statistics.median(values), min(values), max(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Spread of the ratios round by round: both sides of a round ran within a moment of each other, so what the
    machine did to one it did to the other. Raises `ValueError` when the rounds do not pair."""
    return Spread.of([above / below for above, below in zip(numerators, denominators, strict=True)])
