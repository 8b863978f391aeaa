"""Block floating point: every block of elements has one power-of-two scale (NSDI 2021 section 4, with a scale per packet).

`e` is the binary exponent of the block's largest magnitude plus one, so |x| < 2^e, maximised over the workers by the switch. All
workers scale by 2^(31 - e - ceil(log2 n)): exact but for one rounding to nearest, and the sum of n workers fits int32.
"""

from __future__ import annotations

from switchml.protocol.jit import compiled

MIN_EXPONENT = -95
"""Smaller blocks use this: a larger scale does not fit float32."""
EXACT_EXPONENT = 127
"""Carried by blocks that hold NaN, Inf or a magnitude of 2^126 and more: they are exchanged exactly."""
UNKNOWN_EXPONENT = -128
"""Not on the wire as a block's own: the maximum's neutral element."""

_MAX_NORMAL = 126


@compiled
def headroom(workers: int) -> int:
    """Bits kept free for the sum: ceil(log2 workers), and one more for 256.

    Up to 7 bits a float32's 24 fit unrounded; with 8, the largest rounds up to 2^23 itself, and 256 times that is no int32.
    """
    bits = 0
    while (1 << bits) < workers:
        bits += 1
    return bits + 1 if bits >= 8 and (1 << bits) == workers else bits


@compiled
def exponent_of_magnitude(bits: int) -> int:
    """Exponent for the largest magnitude of a block, given as its float32 bit pattern without the sign."""
    exponent = (bits >> 23) - 126
    if exponent > _MAX_NORMAL:
        return EXACT_EXPONENT
    if exponent < MIN_EXPONENT:
        return MIN_EXPONENT
    return exponent


@compiled
def scale_exponent(exponent: int, workers: int) -> int:
    """log2 of what a float is multiplied by before it is rounded to int32."""
    return 31 - exponent - headroom(workers)


def error_bound(exponent: int, workers: int) -> float:
    """Largest absolute error of an element of the sum, before its last rounding to float32.

    Every worker rounds once, by at most half a unit of 2^-(31 - e - ceil(log2 n)).
    """
    return workers / 2 * 2.0 ** -scale_exponent(exponent, workers)
