"""Triton kernels: a program takes some blocks. Formats: protocol/numerics.py.

Importing this module needs Triton; its interpreter (TRITON_INTERPRET=1) runs it without a GPU.
"""

# Annotations are not postponed: Triton reads them, and knows no Any.

from typing import Any

import torch
import triton
import triton.language as tl

from switchml.protocol.numerics import EXACT_EXPONENT, MIN_EXPONENT, headroom

_EXACT = tl.constexpr(EXACT_EXPONENT)
_LEAST = tl.constexpr(MIN_EXPONENT)
_INTEGERS = tl.constexpr(8388608.0)  # 2^23: from here on every float32 is a whole number


# Blocks a program: enough bytes for each of its threads to read 16 at once, several times.
_ROWS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _quantize(
    values: "Any",
    words: "Any",
    exponents: "Any",
    agreed: "Any",
    count: "Any",
    blocks: "Any",
    HEADROOM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    AGAIN: tl.constexpr,
    BIG_ENDIAN: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = row.to(tl.int64)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    wanted = row < blocks
    if AGAIN:
        exponent = tl.load(agreed + row, mask=wanted, other=0).to(tl.int32)
        # Rows that are not wanted are not read: masked, they cost no memory traffic.
        wanted = wanted & (tl.load(exponents + row, mask=wanted, other=0).to(tl.int32) != exponent)
    inside = (at < count) & wanted[:, None]
    value = tl.load(values + at, mask=inside, other=0.0)
    bits = value.to(tl.int32, bitcast=True)
    if not AGAIN:
        exponent = (tl.max(bits & 0x7FFFFFFF, axis=1) >> 23) - 126
        exponent = tl.where(exponent > 126, _EXACT, tl.maximum(exponent, _LEAST))
    tl.store(exponents + row, exponent.to(tl.int8), mask=wanted)
    scale = ((31 - exponent - HEADROOM + 127) << 23).to(tl.float32, bitcast=True)
    exact = (exponent == _EXACT)[:, None]
    scaled = tl.where(exact, 0.0, value) * scale[:, None]
    # To the nearest, ties to even: what adding 2^23 does to a smaller number. The product is exact, so that an
    # fma in place of the two makes no difference.
    toward = tl.where(scaled < 0, -_INTEGERS, _INTEGERS)
    rounded = tl.where(tl.abs(scaled) < _INTEGERS, (scaled + toward) - toward, scaled)
    word = tl.where(exact, bits, rounded.to(tl.int32))
    if BIG_ENDIAN:
        raw = word.to(tl.uint32, bitcast=True)
        raw = (raw << 24) | ((raw & 0xFF00) << 8) | ((raw >> 8) & 0xFF00) | (raw >> 24)
        word = raw.to(tl.int32, bitcast=True)
    tl.store(words + at, word, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize(
    sums: "Any",
    out: "Any",
    exponents: "Any",
    count: "Any",
    blocks: "Any",
    workers: "Any",
    HEADROOM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    AVERAGE: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = row.to(tl.int64)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = at < count
    exponent = tl.load(exponents + row, mask=row < blocks, other=0).to(tl.int32)
    word = tl.load(sums + at, mask=inside, other=0)
    step = ((exponent + HEADROOM - 31 + 127) << 23).to(tl.float32, bitcast=True)
    value = word.to(tl.float32) * step[:, None]
    if AVERAGE:
        value = tl.div_rn(value, workers + tl.zeros([ROWS, BLOCK], tl.float32))
    value = tl.where((exponent == _EXACT)[:, None], word.to(tl.float32, bitcast=True), value)
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
        workers: how many values are summed.
        block: values in a block, a power of two.
        agreed: int8 (blocks,).
        big_endian: words in network order.
    """
    blocks = exponents.numel()
    if blocks:
        _quantize[(triton.cdiv(blocks, _ROWS),)](
            values,
            words,
            exponents,
            exponents if agreed is None else agreed,
            values.numel(),
            blocks,
            HEADROOM=headroom(workers),
            ROWS=_ROWS,
            BLOCK=block,
            AGAIN=agreed is not None,
            BIG_ENDIAN=big_endian,
        )


def dequantize(
    sums: torch.Tensor, out: torch.Tensor, exponents: torch.Tensor, workers: int, block: int, *, average: bool
) -> None:
    """The float32 values of int32 sums. The words of blocks with exponent 127 are the bits of the result itself.

    Args:
        sums: int32 (count,).
        out: float32 (count,), filled.
        exponents: int8 (blocks,), as agreed on.
        workers: how many values were summed.
        block: values in a block, a power of two.
        average: divide by the number of workers.
    """
    blocks = exponents.numel()
    if blocks:
        _dequantize[(triton.cdiv(blocks, _ROWS),)](
            sums,
            out,
            exponents,
            sums.numel(),
            blocks,
            float(workers),
            HEADROOM=headroom(workers),
            ROWS=_ROWS,
            BLOCK=block,
            AVERAGE=average,
        )
