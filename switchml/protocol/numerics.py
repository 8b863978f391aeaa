"""Block floating point: every block of elements has one power-of-two scale (NSDI 2021 section 4, with a scale per packet).

`e` is the binary exponent of the block's largest magnitude plus one, so |x| < 2^e, maximised over the workers by the switch. All
workers scale by 2^(31 - e - ceil(log2 n)): exact but for one rounding to nearest, and the sum of n workers fits int32.

On a narrow wire an element is a lane of b = 16 or 8 bits: workers scale by 2^(b - 1 - e) and hold what they get to the lane's
range. The switch adds in int32 and gives back sum / 2^k, rounded to nearest, with the smallest k for which all of a chunk's
sums fit.
"""

from __future__ import annotations

from switchml.protocol.jit import compiled

MIN_EXPONENT = -95
"""Smaller blocks use this: a larger scale does not fit float32."""
EXACT_EXPONENT = 127
"""Carried by blocks that hold NaN, Inf or a magnitude of 2^126 and more: they are exchanged exactly."""
UNKNOWN_EXPONENT = -128
"""Not on the wire as a block's own: the maximum's neutral element."""

MAX_SHIFT = 8
"""Bits by which a sum of 256 narrow lanes can be longer than a lane."""

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


@compiled
def lane_scale_exponent(exponent: int, bits: int) -> int:
    """log2 of what a float is multiplied by before it is rounded to a narrow lane."""
    return bits - 1 - exponent


def error_bound(exponent: int, workers: int, bits: int = 32) -> float:
    """Largest absolute error of an element of the sum, before its last rounding to float32.

    In int32 every worker rounds once, by at most half a unit of 2^-(31 - e - ceil(log2 n)). In a narrow lane a worker is off
    by at most one unit of 2^-(b - 1 - e) (the largest values are held to the lane's range), and what the switch gives back by
    at most 2^k - 1, where k is no more than ceil(log2 n).
    """
    if bits == 32:
        return workers / 2 * 2.0 ** -scale_exponent(exponent, workers)
    shift = (workers - 1).bit_length()
    return float(workers + 2**shift - 1) * 2.0 ** -lane_scale_exponent(exponent, bits)
