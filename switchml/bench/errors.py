"""What the benchmark raises."""

from __future__ import annotations

from switchml.errors import SwitchMLError


class BenchError(SwitchMLError):
    """A measurement could not be made: a system did not start, a rank died or answered too late."""
