"""Which rows of a tensor any rank has: what each rank says of its own, and what follows from that. Pure functions.

Rows are said as a list of their numbers or as a bit each, whichever is shorter: of 200,000 rows 200 take 800 bytes, and more
than 6,250 are said in 25,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
"""Numbers of rows, ascending, each once."""

Array = npt.NDArray[np.uint8] | npt.NDArray[np.uint32] | npt.NDArray[np.int64]


def say(mine: Rows, most: int, rows: int) -> Array:
    """What a rank tells of its rows; of one length and dtype on all ranks.

    Args:
        mine: of this rank.
        most: that a rank has.
        rows: of the tensor.
    """
    dtype = np.dtype(np.uint32 if rows <= 1 << 32 else np.int64)
    if most * dtype.itemsize > rows // 8:
        bits = np.zeros(rows, np.uint8)
        bits[mine] = 1
        return np.packbits(bits)
    said = np.zeros(most, dtype)
    said[: mine.size] = mine
    return said


def hear(said: Array, counts: Sequence[int], rows: int) -> list[Rows]:
    """Every rank's rows.

    Args:
        said: what each rank gave by `say`, (ranks, ...).
        counts: of rows, by rank.
        rows: of the tensor.
    """
    if said.dtype == np.uint8:
        return [np.flatnonzero(np.unpackbits(bits, count=rows)) for bits in said]
    return [row[:count].astype(np.int64) for row, count in zip(said, counts, strict=True)]


def union(every: Sequence[Rows], rows: int) -> Rows:
    """All rows that any rank has."""
    if any(mine.size == rows for mine in every):
        return np.arange(rows)
    return np.unique(np.concatenate(every))


def gathers(counts: Sequence[int], in_union: int) -> bool:
    """Whether rows cost less when every rank gets those of all than when the union is summed.

    A sum brings each rank the union; a gather, what the others have, here as many rows from each as the rank has that has most.
    So few rows that are hardly ever the same on two ranks are worth gathering.

    Args:
        counts: of rows, by rank.
        in_union: rows of the union.
    """
    return (len(counts) - 1) * max(counts) < in_union
