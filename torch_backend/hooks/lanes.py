"""Gradients as short integers, several to the int32 element that the switch adds up.

A switch only knows sums of int32. With k lanes of L = 32 / k bits an element carries k values q_0 ... q_{k-1}, as

    element = sum of q_i * 2^(L i)      modulo 2^32

which is linear: the sum over workers of the elements is the element of the sums. As long as every sum of a lane lies
in [-2^(L-1), 2^(L-1)), adding 2^(L-1) to each lane makes all of them non-negative, so that no lane borrows from the
next, and they can be read off as unsigned L-bit fields. Nothing is lost to carries.

Headroom: with n workers every |q| is at most M = floor((2^(L-1) - 1) / n), so the lane holds the sum whatever the
values are. What is left for a value:

| workers      | 2     | 4    | 8    | 16   | 32   | 64  | 127 |
| ------------ | ----- | ---- | ---- | ---- | ---- | --- | --- |
| M, 16 bits   | 16383 | 8191 | 4095 | 2047 | 1023 | 511 | 258 |
| M, 8 bits    | 63    | 31   | 15   | 7    | 3    | 1   | 1   |

A block of 256 values has one exponent e, the largest over the workers (|x| < 2^e on all of them); values are multiplied
by M / 2^e and rounded stochastically: up with the probability of the fraction, so that the expectation of what is sent
is the value itself. What rounding took is kept (`residual`) and added to the next gradient of the bucket: error
feedback (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019). An element of the average is off by less than
one step, 2^e / M, and the sum of all averages over time by less than one step as well, not by their number.

Blocks with NaN, infinity or magnitudes of 2^126 and more carry exponent 127, are left out here and exchanged exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.errors import UsageError
from switchml.protocol.jit import compiled
from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.worker.kernels import block_exponent, power_of_two

BLOCK = 256
"""Values that share an exponent. The exponents cost (world size) / 256 bytes a value: they are gathered."""

Floats = npt.NDArray[np.float32]
Exponents = npt.NDArray[np.int8]
Lanes = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Wire:
    """How a value travels: in a lane of `bits` bits."""

    name: str
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned, of one lane."""
        return np.dtype(f"uint{self.bits}")

    @property
    def lanes(self) -> int:
        """Values in an int32 element."""
        return 32 // self.bits

    @property
    def middle(self) -> int:
        """What stands for 0 in a lane read as unsigned."""
        return 1 << (self.bits - 1)

    @property
    def bias(self) -> int:
        """`middle` in every lane of an element."""
        return sum(self.middle << (self.bits * lane) for lane in range(self.lanes))

    def limit(self, workers: int) -> int:
        """M: the largest magnitude a worker may put into a lane.

        Raises:
            UsageError: the lane is too short for so many workers.
        """
        limit = (self.middle - 1) // workers
        if limit < 1:
            raise UsageError(
                f"{workers} workers are too many for the wire {self.name!r}: a lane of {self.bits} bits cannot hold "
                f"their sum; at most {self.middle - 1} can use it, or take a wider one"
            )
        return limit

    def elements(self, count: int) -> int:
        """int32 elements that `count` values take."""
        return -(-count // self.lanes)

    def step(self, exponent: int, workers: int) -> float:
        """Distance between two values that a worker can send; an element of the average is off by less."""
        return float(2.0**exponent / self.limit(workers))


WIRES = {wire.name: wire for wire in (Wire("float16", 16), Wire("int8", 8))}
"""By name. `float16` is as long as one, and more exact within a block: 16 bits less headroom, with a shared exponent."""


@compiled
def accumulate(gradient: Floats, residual: Floats, exponents: Exponents, block: int) -> None:
    """Add the gradient to the residual in place, and find the exponent of every block of the result.

    Args:
        gradient: float32 (count,).
        residual: float32 (count,).
        exponents: int8, one a block, filled.
        block: values in a block.
    """
    for number in range(exponents.size):
        begin = number * block
        part = residual[begin : begin + block]
        added = gradient[begin : begin + block]
        for i in range(part.size):
            part[i] += added[i]
        exponents[number] = block_exponent(part)


@compiled
def quantize_lanes(
    values: Floats, noise: Floats, lanes: Lanes, exponents: Exponents, limit: int, middle: int, block: int
) -> None:
    """Round `values` stochastically into `lanes`, and leave in `values` what rounding took.

    Args:
        values: float32 (count,). Blocks that are exchanged exactly become 0, here and in `lanes`.
        noise: uniform in [0, 1), as many as values.
        lanes: unsigned, one a value, filled; `middle` stands for 0.
        exponents: of the blocks, agreed on.
        limit: see `Wire.limit`.
        middle: see `Wire.middle`.
        block: values in a block.
    """
    share = np.float32(1.0) / np.float32(limit)
    for number in range(exponents.size):
        begin = number * block
        part = values[begin : begin + block]
        chance = noise[begin : begin + block]
        out = lanes[begin : begin + part.size]
        exponent = int(exponents[number])
        if exponent == EXACT_EXPONENT:
            part[:] = np.float32(0.0)
            out[:] = middle
            continue
        scale = power_of_two(-exponent) * np.float32(limit)
        step = power_of_two(exponent) * share
        for i in range(part.size):
            scaled = part[i] * scale
            rounded = np.floor(scaled)
            if chance[i] < scaled - rounded:
                rounded += np.float32(1.0)
            out[i] = int(rounded) + middle
            part[i] -= rounded * step


@compiled
def dequantize_lanes(
    lanes: Lanes, out: Floats, exponents: Exponents, limit: int, middle: int, workers: int, block: int
) -> None:
    """The averages of what the workers put into the lanes. Blocks that are exchanged exactly become 0."""
    share = np.float32(1.0) / (np.float32(limit) * np.float32(workers))
    for number in range(exponents.size):
        begin = number * block
        part = out[begin : begin + block]
        sums = lanes[begin : begin + part.size]
        exponent = int(exponents[number])
        if exponent == EXACT_EXPONENT:
            part[:] = np.float32(0.0)
            continue
        step = power_of_two(exponent) * share
        for i in range(part.size):
            part[i] = np.float32(int(sums[i]) - middle) * step
