"""Sets of ranks as people read them."""

from __future__ import annotations

from collections.abc import Iterable


def name_ranks(ranks: Iterable[int]) -> str:
    """`rank 3`, or `ranks 0, 2-5, 9`; `no rank` for none."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    if not runs:
        return "no rank"
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"rank {text}" if text.isdecimal() else f"ranks {text}"
