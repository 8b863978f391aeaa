"""Shares of a job's switches by their speed, where nobody gives shares."""

from __future__ import annotations

from collections.abc import Sequence

TRIED_WORDS = tuple(1 << exponent for exponent in (14, 16, 18, 20))
"""What goes through every switch at once, round after round, until it takes long enough to tell."""
LONG_ENOUGH = 0.1
"""Seconds."""

_ALIKE = 0.67
_FINEST = 16


def shares_by_speed(seconds: Sequence[float]) -> tuple[int, ...]:
    """Shares in proportion to the speeds; equal ones where the slowest is not much slower, as clocks of busy machines lie.

    Args:
        seconds: that each switch took for as much.
    """
    fastest = min(seconds)
    if fastest >= _ALIKE * max(seconds):
        return (1,) * len(seconds)
    return tuple(max(1, round(_FINEST * fastest / each)) for each in seconds)
