"""Triton kernels: one program a block. Formats: protocol/numerics.py.

`reference.py` has the same arithmetic in torch. Importing this module needs Triton; its interpreter
(TRITON_INTERPRET=1) runs it without a GPU.
"""

# Annotations are not postponed: Triton reads them.

from typing import Any

import torch
import triton
import triton.language as tl

from switchml.protocol.numerics import EXACT_EXPONENT, MIN_EXPONENT, headroom

_EXACT = tl.constexpr(EXACT_EXPONENT)
_LEAST = tl.constexpr(MIN_EXPONENT)
_INTEGERS = tl.constexpr(8388608.0)  # 2^23: from here on every float32 is a whole number


@triton.jit  # type: ignore[untyped-decorator]
def _quantize(
    values: Any,
    words: Any,
    exponents: Any,
    agreed: Any,
    count: Any,
    HEADROOM: tl.constexpr,
    BLOCK: tl.constexpr,
    AGAIN: tl.constexpr,
    BIG_ENDIAN: tl.constexpr,
) -> None:
    number = tl.program_id(0)
    first = number.to(tl.int64) * BLOCK
    at = first + tl.arange(0, BLOCK)
    inside = at < count
    wanted = True
    if AGAIN:
        exponent = tl.load(agreed + number).to(tl.int32)
        wanted = tl.load(exponents + number).to(tl.int32) != exponent
    if wanted:
        value = tl.load(values + at, mask=inside, other=0.0)
        if not AGAIN:
            largest = tl.max(value.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0)
            exponent = (largest >> 23) - 126
            exponent = tl.where(exponent > 126, _EXACT, tl.maximum(exponent, _LEAST))
        tl.store(exponents + number, exponent.to(tl.int8))
        scale = ((31 - exponent - HEADROOM + 127) << 23).to(tl.float32, bitcast=True)
        exact = exponent == _EXACT
        scaled = tl.where(exact, 0.0, value) * scale
        # To the nearest, ties to even: what adding 2^23 does to a smaller number. The product is exact, so that an
        # fma in place of the two makes no difference.
        toward = tl.where(scaled < 0, -_INTEGERS, _INTEGERS)
        rounded = tl.where(tl.abs(scaled) < _INTEGERS, (scaled + toward) - toward, scaled)
        word = tl.where(exact, value.to(tl.int32, bitcast=True), rounded.to(tl.int32))
        if BIG_ENDIAN:
            raw = word.to(tl.uint32, bitcast=True)
            raw = (raw << 24) | ((raw & 0xFF00) << 8) | ((raw >> 8) & 0xFF00) | (raw >> 24)
            word = raw.to(tl.int32, bitcast=True)
        tl.store(words + at, word, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize(
    sums: Any,
    out: Any,
    exponents: Any,
    count: Any,
    workers: Any,
    HEADROOM: tl.constexpr,
    BLOCK: tl.constexpr,
    AVERAGE: tl.constexpr,
) -> None:
    number = tl.program_id(0)
    at = number.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    exponent = tl.load(exponents + number).to(tl.int32)
    word = tl.load(sums + at, mask=inside, other=0)
    if exponent == _EXACT:
        value = word.to(tl.float32, bitcast=True)
    else:
        step = ((exponent + HEADROOM - 31 + 127) << 23).to(tl.float32, bitcast=True)
        value = word.to(tl.float32) * step
        if AVERAGE:
            value = tl.div_rn(value, workers + tl.zeros([BLOCK], tl.float32))
    tl.store(out + at, value, mask=inside)


def quantize(
    values: torch.Tensor,
    words: torch.Tensor,
    exponents: torch.Tensor,
    workers: int,
    block: int,
    *,
    agreed: torch.Tensor | None = None,
    big_endian: bool = False,
) -> None:
    """Exponents of blocks, and their values scaled and rounded to int32 under them: each value is read once.

    The scale in the end must be that of the largest exponent over the workers. So `quantize` is called twice: first under
    this worker's own exponents; then with the ones `agreed` on, when only the blocks are read and written whose
    exponent has changed. Blocks with exponent 127, which do not fit the scheme, give the bits of their values.

    Args:
        values: float32 (count,).
        words: int32 (count,), filled.
        exponents: int8 (blocks,), filled; with `agreed`, what the call before left there.
        block: values in a block, a power of two.
        agreed: int8 (blocks,).
        big_endian: words in network order.
    """
    blocks = exponents.numel()
    if blocks:
        _quantize[(blocks,)](
            values,
            words,
            exponents,
            exponents if agreed is None else agreed,
            values.numel(),
            HEADROOM=headroom(workers),
            BLOCK=block,
            AGAIN=agreed is not None,
            BIG_ENDIAN=big_endian,
        )


def dequantize(
    sums: torch.Tensor, out: torch.Tensor, exponents: torch.Tensor, workers: int, block: int, *, average: bool
) -> None:
    """The float32 values of int32 sums, divided by the number of workers if `average`.

    The words of blocks with exponent 127 are the bits of the result itself.
    """
    blocks = exponents.numel()
    if blocks:
        _dequantize[(blocks,)](
            sums,
            out,
            exponents,
            sums.numel(),
            float(workers),
            HEADROOM=headroom(workers),
            BLOCK=block,
            AVERAGE=average,
        )
