"""The collectives that are timed: what each rank gives and gets, in pieces.

Sizes are those of nccl-tests: the bytes of the larger of a rank's two buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from switchml.errors import UsageError

ROOT = 0


@dataclass(frozen=True)
class Collective:
    """One of them.

    Attributes:
        name: on the command line.
        words: for people.
        given: pieces that a rank gives, of as many as `pieces`: "one" (all of the buffer), "own" (one of n) or "all" (n of n).
        taken: pieces that it gets, likewise; "none" for a barrier.
        reduces: elements are reduced.
        in_place: the buffer that is given is the one that is got.
        rooted: the root alone gets something.
        bus: bytes that a link carries by the best known algorithm, over the bytes of the buffer, for n ranks (nccl-tests' busbw).
        bus_words: the same as a formula.
    """

    name: str
    words: str
    given: str
    taken: str
    reduces: bool
    in_place: bool
    rooted: bool
    bus: Callable[[int], float]
    bus_words: str

    def check_count(self, count: int, workers: int) -> int:
        """Elements of the larger buffer, in whole pieces.

        Raises:
            UsageError: there is not one for each rank.
        """
        if "all" not in (self.given, self.taken):
            return count
        if count < workers:
            raise UsageError(f"{self.name} of {count} elements: {workers} workers need one each, at least")
        return count - count % workers

    def pieces(self, share: str, count: int, workers: int) -> tuple[int, int]:
        """Number and elements of the pieces of a buffer, for `given` or `taken`."""
        return {
            "one": (1, count),
            "own": (1, count // workers),
            "all": (workers, count // workers),
            "none": (0, 0),
        }[share]


_WHOLE: tuple[Callable[[int], float], str] = (lambda workers: 1.0, "1")
_OTHERS: tuple[Callable[[int], float], str] = (lambda workers: (workers - 1) / workers, "(n-1)/n")
_RING: tuple[Callable[[int], float], str] = (lambda workers: 2 * (workers - 1) / workers, "2(n-1)/n")

COLLECTIVES = {
    one.name: one
    for one in (
        Collective("allreduce", "all-reduce", "one", "one", True, True, False, *_RING),
        Collective("broadcast", "broadcast", "one", "one", False, True, False, *_WHOLE),
        Collective("reduce", "reduce", "one", "one", True, True, True, *_WHOLE),
        Collective("all_gather", "all-gather", "own", "all", False, False, False, *_OTHERS),
        Collective("reduce_scatter", "reduce-scatter", "all", "own", True, False, False, *_OTHERS),
        Collective("all_to_all", "all-to-all", "all", "all", False, False, False, *_OTHERS),
        Collective("barrier", "barrier", "none", "none", False, True, False, *_WHOLE),
    )
}
"""By name. Torch calls them so, but for "allreduce"."""
