"""Loops over the elements of a packet at the switch. Packets are in network order, sums in the machine's; int32 wraps around."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.protocol.byteorder import swap_bytes
from switchml.protocol.jit import compiled

Words = npt.NDArray[np.uint32]
Sums = npt.NDArray[np.int32]

_WORD = 0xFFFFFFFF


@compiled
def _plus(a: Any, b: Any) -> Any:
    return np.uint32((int(a) + int(b)) & _WORD)


@compiled
def add(packet: Words, sums: Words) -> None:
    """Add a packet to the sums."""
    for i in range(sums.size):
        sums[i] = _plus(sums[i], swap_bytes(packet[i]))


@compiled
def take_and_emit(packet: Words, sums: Words, out: Words) -> None:
    """Take a packet as the sums, and copy it to `out`: the only worker of a job."""
    for i in range(sums.size):
        sums[i] = swap_bytes(packet[i])
        out[i] = packet[i]


@compiled
def add_and_emit(packet: Words, sums: Words, out: Words) -> None:
    """Add a packet, and write the new sums to `out` in network order, in one pass: the last worker of a chunk."""
    for i in range(sums.size):
        word = _plus(sums[i], swap_bytes(packet[i]))
        sums[i] = word
        out[i] = swap_bytes(word)


# Narrow lanes: uint8, or uint16 in network order, as two's complement; sums are int32 here. One source for both widths: the
# question for the width is the same for all of a loop, and the compiler takes it out of it.

_EIGHT = np.uint16(8)


@compiled
def _widened(lanes: Any, i: int) -> Any:
    if lanes.itemsize == 1:
        return np.int32(np.int8(lanes[i]))
    word = np.uint16(lanes[i])
    return np.int32(np.int16(np.uint16(word << _EIGHT | word >> _EIGHT)))


@compiled
def _put(lanes: Any, i: int, value: Any) -> None:
    if lanes.itemsize == 1:
        lanes[i] = np.uint8(value)
    else:
        word = np.uint16(value)
        lanes[i] = np.uint16(word << _EIGHT | word >> _EIGHT)


@compiled
def take_lanes(lanes: Any, shift: int, sums: Sums) -> None:
    """Take a packet's lanes, which are shifted right by so many bits, as the sums."""
    if shift == 0:  # a worker's: without the shift a fifth faster
        for i in range(sums.size):
            sums[i] = _widened(lanes, i)
        return
    by = np.int32(shift)
    for i in range(sums.size):
        sums[i] = _widened(lanes, i) << by


@compiled
def add_lanes(lanes: Any, shift: int, sums: Sums) -> None:
    """Add a packet's lanes, which are shifted right by so many bits, to the sums."""
    if shift == 0:
        for i in range(sums.size):
            sums[i] += _widened(lanes, i)
        return
    by = np.int32(shift)
    for i in range(sums.size):
        sums[i] += _widened(lanes, i) << by


@compiled
def shift_of(sums: Sums, bits: int) -> int:
    """The smallest number of bits by which all sums can be shifted right to fit lanes of `bits` bits.

    The leading bit of an OR over what differs from the sign: a P4 program can do the same.
    """
    differs = np.int32(0)
    for i in range(sums.size):
        differs |= sums[i] ^ (sums[i] >> np.int32(31))
    shift = 0
    while int(differs) >> (shift + bits - 1):
        shift += 1
    return shift


@compiled
def emit_lanes(sums: Sums, out: Any, shift: int) -> None:
    """The sums divided by 2^shift, rounded to nearest (ties to even) and held to the lane's range."""
    below = np.int32((1 << shift) - 1)
    half, odd, by = np.int32(below >> 1), np.int32(below & 1), np.int32(shift)
    top = np.int32((1 << (8 * out.itemsize - 1)) - 1)
    for i in range(out.size):
        value = sums[i]
        _put(out, i, min(np.int32(value + half + ((value >> by) & odd)) >> by, top))
