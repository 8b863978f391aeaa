"""One bucket's way over a short wire: exponents, lanes, and back. Numbers: hooks/lanes.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.protocol.numerics import EXACT_EXPONENT, UNKNOWN_EXPONENT
from switchml.torch_backend.hooks.lanes import (
    BLOCK,
    Exponents,
    Floats,
    Wire,
    accumulate,
    dequantize_lanes,
    quantize_lanes,
)

Array = npt.NDArray[Any]

_SEGMENT = 256 * BLOCK  # values for which noise is drawn at once: it stays in the cache


class PackedBucket:
    """A bucket of one rank, over all steps. The calls of a step come in the order in which they are defined here.

    Args:
        count: float32 values of the bucket.
        seed: of the rounding; should differ over ranks, so that their errors do not add up.
        feedback: keep what rounding took, for the next step.
    """

    def __init__(self, wire: Wire, count: int, workers: int, seed: list[int], feedback: bool) -> None:
        self._wire, self._workers, self._feedback = wire, workers, feedback
        self._limit = wire.limit(workers)
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._noise = np.empty(min(count, _SEGMENT), np.float32)
        self.residual: Floats = np.zeros(count, np.float32)
        self._blocks = -(-count // BLOCK)

    def exponents(self, gradient: Floats) -> Exponents:
        """Of this rank's blocks, with the new gradient; int8, one a block. The maximum over ranks is wanted."""
        if not self._feedback:
            self.residual[:] = 0
        found = np.full(self._blocks, UNKNOWN_EXPONENT, np.int8)
        with np.errstate(all="ignore"):
            accumulate(gradient, self.residual, found, BLOCK)
        return found

    def exact(self, agreed: Exponents) -> Floats:
        """This rank's values of the blocks that do not fit the scheme, float32 (blocks, BLOCK), zeros beyond the end."""
        chosen = np.flatnonzero(agreed == EXACT_EXPONENT)
        values = np.zeros((chosen.size, BLOCK), np.float32)
        for row, block in zip(values, chosen, strict=True):
            part = self.residual[block * BLOCK : (block + 1) * BLOCK]
            row[: part.size] = part
        return values

    def pack(self, agreed: Exponents) -> npt.NDArray[np.int32]:
        """What this rank gives to the sum. To be called after `exact`."""
        wire, count = self._wire, self.residual.size
        lanes = np.full(wire.elements(count) * wire.lanes, wire.middle, wire.dtype)
        for begin in range(0, count, _SEGMENT):
            end = min(begin + _SEGMENT, count)
            noise = self._noise[: end - begin]
            self._random.random(dtype=np.float32, out=noise)
            quantize_lanes(
                self.residual[begin:end],
                noise,
                lanes[begin:end],
                agreed[begin // BLOCK : -(-end // BLOCK)],
                self._limit,
                wire.middle,
                BLOCK,
            )
        words = lanes.view(np.uint32)
        words -= np.uint32(wire.bias)
        return words.view(np.int32)

    def unpack(
        self, sums: npt.NDArray[np.int32], agreed: Exponents, exact: Floats | None, out: Floats
    ) -> None:
        """The averages.

        Args:
            sums: what the switch made of all ranks' `pack`; consumed.
            agreed: exponents, as given to `pack`.
            exact: averages of the blocks of `exact`; None if there were none.
            out: float32, filled.
        """
        words = sums.view(np.uint32)
        words += np.uint32(self._wire.bias)
        dequantize_lanes(
            words.view(self._wire.dtype), out, agreed, self._limit, self._wire.middle, self._workers, BLOCK
        )
        if exact is not None:
            for row, block in zip(exact, np.flatnonzero(agreed == EXACT_EXPONENT), strict=True):
                part = out[block * BLOCK : (block + 1) * BLOCK]
                part[...] = row[: part.size]
