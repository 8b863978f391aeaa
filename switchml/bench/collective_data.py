"""Data for collectives whose results are known without communicating."""

from __future__ import annotations

import numpy as np

from switchml.bench.timed_collectives import ROOT, Collective
from switchml.bench.verification import Array, ElementType, Expected, fill, table, to_float64

# By how much the table of a rank is turned from piece to piece: what lands in the wrong one shows.
_TURN = 1013


def _turned(values: Array, piece: int) -> Array:
    return np.roll(values, -_TURN * piece)


def fill_given(collective: Collective, buffer: Array, stored: Array, workers: int) -> None:
    """Fill what a rank gives.

    Args:
        collective: for which.
        buffer: flat, of all its pieces.
        stored: the rank's table.
        workers: number of ranks.
    """
    number, length = (workers, buffer.size // workers) if collective.given == "all" else (1, buffer.size)
    for piece in range(number):
        fill(buffer[piece * length : (piece + 1) * length], _turned(stored, piece))


def expected_pieces(
    collective: Collective, kind: ElementType, op: str, rank: int, workers: int, *, rounded: bool
) -> list[Expected]:
    """What the pieces must hold that a rank gets, each from its first element on; [] where it gets nothing."""
    if collective.taken == "none" or (collective.rooted and rank != ROOT):
        return []
    own = rank if collective.given == "all" else 0
    if collective.reduces:
        whole = Expected.of(kind, op, workers, rounded=rounded)
        return [Expected(kind, _turned(whole.values, own), _turned(whole.magnitude, own))]
    givers = [ROOT] if collective.taken == "one" else range(workers)
    found = []
    for giver in givers:
        stored = _turned(table(kind, op, giver, workers, rounded=rounded), own)
        values = to_float64(kind, stored) if kind.floating else stored
        found.append(Expected(kind, values, np.zeros(values.size)))
    return found
