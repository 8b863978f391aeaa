"""Loops over the elements of a packet at the switch. Packets are in network order, sums in the machine's; int32 wraps around."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.protocol.byteorder import swap_bytes
from switchml.protocol.jit import compiled

Words = npt.NDArray[np.uint32]

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
