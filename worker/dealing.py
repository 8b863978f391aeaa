"""How a collective is dealt over the switches of a job: by its size, its number and the shares alone, so alike on all ranks."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from switchml.worker.collectives import Strategy

LEAST_BLOCKS = 4
"""What a switch gets at least on average, in blocks: less is not worth a round trip to every switch."""


def deal(strategy: Strategy, call: int, shares: Sequence[int], block: int) -> list[tuple[int, Strategy]]:
    """What of a collective goes through which switch's stream.

    Large ones are cut in proportion to the shares; small ones go whole to one switch, by turns in that proportion. Of a large one
    every switch gets something, so ranks that differ about a collective's size meet on a stream, where that is found.

    Args:
        strategy: the collective's.
        call: its number in the job.
        shares: of the switches, positive.
        block: where cuts may fall: multiples of so many units.

    Returns:
        Index of a switch, and what goes there.
    """
    if len(shares) == 1:
        return [(0, strategy)]
    ends = list(itertools.accumulate(shares))
    total, count = ends[-1], len(shares)
    blocks = -(-strategy.units // block)
    if blocks < LEAST_BLOCKS * count:
        return [(bisect.bisect_right(ends, call % total), strategy)]
    # A block each, and the rest by shares.
    cuts = [block * (place + (blocks - count) * end // total) for place, end in enumerate(ends, 1)]
    cuts[-1] = strategy.units
    return [
        (index, strategy.cut(start, stop))
        for index, (start, stop) in enumerate(itertools.pairwise([0, *cuts]))
    ]
