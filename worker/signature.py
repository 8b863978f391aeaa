"""What a rank believes a transfer to be, in four words that travel ahead of it, so that a mismatch is seen by every rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

COLLECTIVES = (
    "allreduce", "broadcast", "allgather", "barrier", "exact blocks", "switches", "reduce", "reduce_scatter",
)  # fmt: skip
DTYPES = (
    "float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64",
    "complex64", "complex128", "bytes",
)  # fmt: skip
OPERATIONS = ("none", "sum", "avg", "prod", "min", "max", "band", "bor", "bxor")

CALL_MASK = 0xFFFFFF
_ROOTED = {"broadcast": "from", "reduce": "to"}
_ROOT_SHIFT = 12  # of the detail of those; below is the segment's number


class Signature(NamedTuple):
    """What a transfer is.

    Attributes:
        collective: of COLLECTIVES.
        dtype: of DTYPES.
        op: of OPERATIONS.
        elements: of the call.
        call: number of the collective in its job.
        detail: root, segment, or whatever else must agree; 0 to 2^24 - 1.
    """

    collective: str
    dtype: str
    op: str
    elements: int
    call: int = 0
    detail: int = 0

    def words(self) -> npt.NDArray[np.uint32]:
        """Four uint32."""
        first = (
            1 << 24
            | COLLECTIVES.index(self.collective) << 16
            | DTYPES.index(self.dtype) << 8
            | OPERATIONS.index(self.op)
        )
        return np.array(
            [
                first,
                self.elements & 0xFFFFFFFF,
                (self.elements >> 32 & 0xFF) << 24 | self.detail & CALL_MASK,
                self.call & CALL_MASK,
            ],
            np.uint32,
        )

    def told(self) -> str:
        """What is called, for messages."""
        return f"{self.collective} of {self.elements} x {self.dtype}"

    def __str__(self) -> str:
        op = "" if self.op == "none" else f", {self.op}"
        root, part = "", self.detail
        if self.collective in _ROOTED:
            root = f", {_ROOTED[self.collective]} rank {root_of(self)}"
            part &= (1 << _ROOT_SHIFT) - 1
        segment = f", part {part}" if part else ""
        return f"{self.collective}({self.elements} x {self.dtype}{op}{root}; call {self.call}{segment})"


def detail_of(root: int) -> int:
    """The `detail` of a collective with a root."""
    return root << _ROOT_SHIFT


def broadcast_from(root: int, size: int) -> Signature:
    """Of a broadcast of `size` bytes."""
    return Signature("broadcast", "bytes", "none", size, detail=detail_of(root))


def root_of(signature: Signature) -> int:
    """The rank that gives a broadcast, from its signature."""
    return signature.detail >> _ROOT_SHIFT


def _decode(words: npt.NDArray[np.uint32]) -> str:
    first, low, middle, call = (int(word) for word in words)
    codes = first >> 16 & 0xFF, first >> 8 & 0xFF, first & 0xFF
    tables = COLLECTIVES, DTYPES, OPERATIONS
    if first >> 24 != 1 or any(code >= len(table) for code, table in zip(codes, tables, strict=True)):
        return "something that is no collective of this library"
    names = [table[code] for code, table in zip(codes, tables, strict=True)]
    return str(Signature(names[0], names[1], names[2], (middle >> 24) << 32 | low, call, middle & CALL_MASK))


def explain_mismatch(
    descriptor: npt.NDArray[np.uint32], own: npt.NDArray[np.uint32], rank: int, workers: int, named: bool
) -> str:
    """Who called what.

    Args:
        descriptor: uint32, what the switch summed up.
        own: this rank's four words.
        rank: this one's.
        workers: of the job.
        named: whether the descriptor holds every rank's own words.
    """
    mine = f"rank {rank} called {_decode(own)}"
    if not named:
        return f"{mine}; some other rank called something else (too many ranks for one packet to say which)"
    others: dict[str, list[int]] = {}
    for other in range(workers):
        words = descriptor[4 * other : 4 * other + 4]
        if not np.array_equal(words, own):
            others.setdefault(_decode(words), []).append(other)
    told = "; ".join(
        f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}: {what}"
        for what, ranks in others.items()
    )
    return (
        f"{mine}, but {told}. Every rank must call the same collectives in the same order with the same sizes"
    )
