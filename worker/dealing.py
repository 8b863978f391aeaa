"""How a collective is dealt over the switches of a job: by its size, its number and the shares alone, so alike on all ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from switchml.worker.collectives import Strategy

LEAST_BLOCKS = 4
"""What a switch of share 1 gets at least, in blocks: less is not worth a round trip to every switch."""


def deal(strategy: Strategy, call: int, shares: Sequence[int], block: int) -> list[tuple[int, Strategy]]:
    """What of a collective goes through which switch's stream.

    Large ones are cut in proportion to the shares; small ones go whole to one switch, by turns. Of a large one every switch gets
    something, so ranks that differ about a collective's size meet on a stream, where that is found.

    Args:
        strategy: the collective's.
        call: its number in the job.
        shares: of the switches, positive.
        block: where cuts may fall: multiples of so many units.

    Returns:
        Index of a switch, and what goes there.
    """
    total = sum(shares)
    blocks = -(-strategy.units // block)
    if len(shares) == 1 or blocks < LEAST_BLOCKS * total:
        return [(call % len(shares), strategy)]
    ends = [block * (blocks * share // total) for share in itertools.accumulate(shares)]
    ends[-1] = strategy.units
    return [
        (index, strategy.cut(start, stop))
        for index, (start, stop) in enumerate(itertools.pairwise([0, *ends]))
    ]
