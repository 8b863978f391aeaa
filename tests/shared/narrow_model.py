"""Sums on a narrow wire in plain numpy, as docs/protocol.md has them: of another construction than the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def _block_sum(blocks: Sequence[Floats], bits: int) -> Floats:
    largest = max(float(np.abs(block).max()) for block in blocks)
    exponent = max(int(np.frexp(largest)[1]), -95) if largest > 0 else -95
    unit = 2.0 ** (exponent - bits + 1)
    top = 2 ** (bits - 1) - 1
    total = np.sum([np.minimum(np.rint(block.astype(np.float64) / unit), top) for block in blocks], axis=0)
    shift = 0
    while (np.floor(total / 2**shift) > top).any() or (np.floor(total / 2**shift) < -top - 1).any():
        shift += 1
    rounded = np.minimum(np.rint(total / 2**shift), top)
    result: Floats = (rounded * (unit * 2.0**shift) + 0.0).astype(np.float32)  # no -0.0
    return result


def narrow_sum(sources: Sequence[Floats], bits: int, block: int) -> Floats:
    """What every rank gets for these, rounded to nearest. bits: of a lane. block: values in a packet."""
    cuts = range(block, sources[0].size, block)
    parts = zip(*(np.split(source, cuts) for source in sources), strict=True)
    return np.concatenate([_block_sum(blocks, bits) for blocks in parts])
