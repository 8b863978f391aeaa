"""Loops over the elements of one block: exponent, quantize, dequantize.

All work on one-dimensional slices, which is what the compiler vectorizes best. Formats: protocol/numerics.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.link.memory import array_at
from switchml.protocol.byteorder import swap_bytes
from switchml.protocol.jit import compiled, inlined
from switchml.protocol.numerics import exponent_of_magnitude, lane_scale_exponent, scale_exponent

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.int32]

NEAREST = -1
"""In place of a seed: rounding to nearest, ties to even."""

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_EIGHT = np.uint16(8)
_EIGHT_OF_WORD = np.uint32(8)
_GOLDEN = 0x9E3779B9
_UNIT = np.float32(2.0**-24)
# A table, because a call of pow() costs as much as a block of 256 elements.
_POWERS = (2.0 ** np.arange(-126, 128)).astype(np.float32)


@inlined
def power_of_two(exponent: int) -> Any:
    """2^exponent as float32, for exponents from -126 to 127."""
    return _POWERS[exponent + 126]


@inlined
def bits_exponent(bits: Words) -> int:
    """The exponent of a block of any length, given as float32 bit patterns (numerics.py)."""
    largest = np.uint32(0)
    for i in range(bits.size):
        # As uint32, or numba takes 64 bits for it; and a comparison becomes a vector maximum. Else it is half as fast.
        magnitude = np.uint32(bits[i] & _MAGNITUDE)
        largest = magnitude if magnitude > largest else largest
    return exponent_of_magnitude(int(largest))


@inlined
def block_exponent(block: Floats) -> int:
    """The exponent of a float32 block. Where there are many, `bits_exponent` of slices of one view is three times as fast."""
    return bits_exponent(block.view(np.uint32))


@inlined
def quantize(block: Floats, out: Words, exponent: int, workers: int) -> None:
    """Scale a float32 block, round to the nearest int32 (ties to even) and write it in network order.

    `out` has at least the block's length; the rest is filled with 0.
    """
    scale = power_of_two(scale_exponent(exponent, workers))
    count = block.size
    for i in range(count):
        out[i] = swap_bytes(np.uint32(np.int32(np.rint(block[i] * scale))))
    for i in range(count, out.size):
        out[i] = 0


@inlined
def dequantize(sums: Words, out: Floats, exponent: int, workers: int) -> None:
    """The float32 values of int32 sums in network order; as many as `out` has."""
    scale = power_of_two(-scale_exponent(exponent, workers))
    for i in range(out.size):
        out[i] = np.float32(np.int32(swap_bytes(sums[i]))) * scale


@inlined
def dequantize_onto(sums: Words, own: Floats, out: Floats, exponent: int, workers: int) -> None:
    """As `dequantize` of the sums with what `quantize` makes of `own`: the same bits. `own` may be `out`."""
    scale = power_of_two(scale_exponent(exponent, workers))
    unit = power_of_two(-scale_exponent(exponent, workers))
    for i in range(out.size):
        mine = np.int32(np.rint(own[i] * scale))
        out[i] = np.float32(np.int32(np.int32(swap_bytes(sums[i])) + mine)) * unit


@inlined
def quantize_into(block: Floats, sums: Sums, exponent: int, workers: int, adds: bool) -> None:
    """As `quantize`, into the sums of a slot: in their place, or `adds` to them. As many as the block has."""
    scale = power_of_two(scale_exponent(exponent, workers))
    if adds:
        for i in range(block.size):
            sums[i] += np.int32(np.rint(block[i] * scale))
    else:
        for i in range(block.size):
            sums[i] = np.int32(np.rint(block[i] * scale))


@inlined
def dequantize_from(sums: Sums, out: Floats, exponent: int, workers: int) -> None:
    """As `dequantize`, from the sums of a slot."""
    scale = power_of_two(-scale_exponent(exponent, workers))
    for i in range(out.size):
        out[i] = np.float32(sums[i]) * scale


# Narrow lanes: uint8, or uint16 in network order, as two's complement. The question for the width is the same for all of a loop.


@inlined
def _lane_bits(lanes: Any) -> int:
    return int(8 * lanes.itemsize)


@inlined
def _top(bits: int) -> Any:
    """The largest value of a lane."""
    return np.float32((1 << (bits - 1)) - 1)


@inlined
def _put(lanes: Any, i: int, value: Any) -> None:
    if lanes.itemsize == 1:
        lanes[i] = np.uint8(np.int32(value))
    else:
        word = np.uint16(np.int32(value))
        lanes[i] = np.uint16(word << _EIGHT | word >> _EIGHT)


@inlined
def _get(lanes: Any, i: int) -> Any:
    if lanes.itemsize == 1:
        return np.float32(np.int8(lanes[i]))
    word = np.uint16(lanes[i])
    return np.float32(np.int16(np.uint16(word << _EIGHT | word >> _EIGHT)))


@inlined
def _times(word: Any, factor: int) -> Any:
    return np.uint32((int(word) * factor) & 0xFFFFFFFF)


@inlined
def scrambled(word: Any) -> Any:
    """A uint32 that looks random, another one for each: the last step of MurmurHash3."""
    word = _times(word ^ (word >> np.uint32(16)), 0x85EBCA6B)
    word = _times(word ^ (word >> np.uint32(13)), 0xC2B2AE35)
    return word ^ (word >> np.uint32(16))


@inlined
def _nearest(scaled: Any, top: Any) -> Any:
    return min(np.rint(scaled), top)


@inlined
def _by_chance(scaled: Any, top: Any, key: Any, position: int) -> Any:
    """Up with the probability of the fraction, so that the expectation is the value itself."""
    chance = scrambled(_times(position, _GOLDEN) ^ key) >> _EIGHT_OF_WORD
    below = np.floor(scaled)
    up = np.float32(1.0) if np.float32(np.int32(chance)) * _UNIT < scaled - below else np.float32(0.0)
    return min(below + up, top)


@inlined
def quantize_lanes(block: Floats, lanes: Any, exponent: int, seed: int, first: int) -> None:
    """Scale a float32 block and round it into narrow lanes, held to their range; lanes beyond the block become 0.

    Args:
        block: of magnitudes below 2^exponent.
        lanes: at least as many.
        exponent: agreed on.
        seed: of the stochastic rounding, or NEAREST.
        first: position of the block's first element, which decides together with the seed.
    """
    bits = _lane_bits(lanes)
    scale, top = power_of_two(lane_scale_exponent(exponent, bits)), _top(bits)
    if seed == NEAREST:
        for i in range(block.size):
            _put(lanes, i, _nearest(block[i] * scale, top))
    else:
        key = scrambled(np.uint32(seed))
        for i in range(block.size):
            _put(lanes, i, _by_chance(block[i] * scale, top, key, first + i))
    for i in range(block.size, lanes.size):
        lanes[i] = 0


@inlined
def subtract_lanes(block: Floats, bits: int, exponent: int, seed: int, first: int) -> None:
    """Leave in the block what `quantize_lanes` rounded off it."""
    scale, top = power_of_two(lane_scale_exponent(exponent, bits)), _top(bits)
    unit = power_of_two(-lane_scale_exponent(exponent, bits))
    if seed == NEAREST:
        for i in range(block.size):
            block[i] -= _nearest(block[i] * scale, top) * unit
    else:
        key = scrambled(np.uint32(seed))
        for i in range(block.size):
            block[i] -= _by_chance(block[i] * scale, top, key, first + i) * unit


@inlined
def dequantize_lanes(lanes: Any, out: Floats, exponent: int, shift: int) -> None:
    """The float32 values of sums in narrow lanes, shifted right by `shift` bits; as many as `out` has."""
    unit = power_of_two(shift - lane_scale_exponent(exponent, _lane_bits(lanes)))
    for i in range(out.size):
        out[i] = _get(lanes, i) * unit


@compiled
def widen_bfloat16(halves: npt.NDArray[np.uint16], out: Words) -> None:
    """The float32 bit patterns of bfloat16 bit patterns: exact."""
    for i in range(halves.size):
        out[i] = np.uint32(halves[i]) << np.uint32(16)


@compiled
def narrow_bfloat16(words: Words, out: npt.NDArray[np.uint16]) -> None:
    """The nearest bfloat16 (ties to even) of float32 bit patterns; a NaN stays one."""
    for i in range(words.size):
        bits = int(words[i])
        if (bits & 0x7FFFFFFF) > 0x7F800000:
            out[i] = (bits >> 16) | 0x40
        else:
            out[i] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


@compiled
def add_rows(rows: int, stride: int, workers: int, count: int, out: int, divisor: int) -> None:
    """Add float32 rows in their order, and divide the sums.

    Args:
        rows: address of the first one's first element.
        stride: elements from one row's first to the next one's.
        workers: how many.
        count: elements of each that are wanted.
        out: address for as many results; apart from the rows.
        divisor: 1 leaves them as they are.
    """
    total, first = array_at(out, count, np.float32), array_at(rows, count, np.float32)
    for i in range(count):
        total[i] = first[i]
    for row in range(1, workers):
        values = array_at(rows + 4 * row * stride, count, np.float32)
        for i in range(count):
            total[i] += values[i]
    if divisor != 1:
        divide(out, count, divisor)


@compiled
def divide(address: int, count: int, divisor: int) -> None:
    """Divide float32 values in place."""
    values, by = array_at(address, count, np.float32), np.float32(divisor)
    for i in range(count):
        values[i] /= by
