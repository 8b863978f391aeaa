"""What the GPU's kernels compute, in torch, for any device: bit for bit what the worker's own quantizer does."""

from __future__ import annotations

import torch

from switchml.protocol.numerics import EXACT_EXPONENT, MIN_EXPONENT, headroom

_MAX_NORMAL = 126


def _scales(exponents: torch.Tensor, workers: int, sign: int) -> torch.Tensor:
    """2^(sign (31 - e - headroom)) as float32, made of its bits: exact, where pow need not be."""
    powers = sign * (31 - exponents.to(torch.int32) - headroom(workers))
    return ((powers + 127) << 23).view(torch.float32)


def _rows(flat: torch.Tensor, block: int) -> torch.Tensor:
    """(blocks, block), padded with zeros."""
    blocks = -(-flat.numel() // block)
    padded = torch.zeros(blocks * block, dtype=flat.dtype, device=flat.device)
    padded[: flat.numel()] = flat
    return padded.view(blocks, block)


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
    """See `kernels.quantize`."""
    rows = _rows(values, block)
    if agreed is None:
        largest = (rows.view(torch.int32) & 0x7FFFFFFF).amax(1)
        found = (largest >> 23) - 126
        found = torch.where(found > _MAX_NORMAL, EXACT_EXPONENT, found.clamp(min=MIN_EXPONENT))
        exponents.copy_(found)
    else:
        exponents.copy_(agreed)
    exact = (exponents == EXACT_EXPONENT)[:, None]
    scaled = torch.where(exact, 0.0, rows) * _scales(exponents, workers, 1)[:, None]
    rounded = scaled.round().to(torch.int32)  # ties to even
    flat = torch.where(exact, rows.view(torch.int32), rounded).view(-1)[: values.numel()]
    if big_endian:
        flat = flat.view(torch.uint8).view(-1, 4).flip(1).contiguous().view(torch.int32).view(-1)
    words.copy_(flat)


def dequantize(
    sums: torch.Tensor, out: torch.Tensor, exponents: torch.Tensor, workers: int, block: int, *, average: bool
) -> None:
    """See `kernels.dequantize`."""
    words = _rows(sums, block)
    values = words.to(torch.float32) * _scales(exponents, workers, -1)[:, None]
    if average:
        values /= float(workers)
    exact = (exponents == EXACT_EXPONENT)[:, None]
    values = torch.where(exact, words.view(torch.float32), values)
    out.copy_(values.view(-1)[: out.numel()])
