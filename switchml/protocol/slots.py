"""Where a chunk stands in the pool (NSDI 2021, section 3.3; here with a sequence number that counts on).

A stream lays its chunks end to end at positions 0, 1, 2, ... The packet carries the position modulo 2^32 as `tsi`. The window
is a power of two, so that slot and version follow from `tsi` alone even where it wraps.
"""

from __future__ import annotations

from switchml.protocol.header import MAX_WINDOW, PLACES
from switchml.protocol.jit import compiled

TSI_MASK = PLACES["tsi"].mask
_HALF = TSI_MASK // 2 + 1


def check_window(window: int) -> None:
    """Raise ValueError unless `window` is a power of two that the slot field can address."""
    if window < 1 or window & (window - 1) or window > MAX_WINDOW:
        raise ValueError(f"a window of {window} slots is no power of two from 1 to {MAX_WINDOW}")


@compiled
def slot_of(position: int, window: int) -> int:
    """The slot of a position, or of its `tsi`; `window` in slots, a power of two."""
    return position & (window - 1)


@compiled
def version_of(position: int, window: int) -> int:
    """Which of the slot's two copies, 0 or 1."""
    return 1 if position & window else 0


@compiled
def tsi_distance(tsi: int, stamp: int) -> int:
    """`tsi - stamp` as a signed 32-bit number: positive when `tsi` is the newer of the two."""
    return (((tsi - stamp) + _HALF) & TSI_MASK) - _HALF
