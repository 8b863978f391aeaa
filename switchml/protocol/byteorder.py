"""32-bit words to and from network order, written so that the compiler turns the loops into vector shuffles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.protocol.jit import compiled

Words = npt.NDArray[np.uint32]

_MIDDLE = np.uint32(0x0000FF00)
_EIGHT = np.uint32(8)
_TWENTY_FOUR = np.uint32(24)


@compiled
def swap_bytes(word: Any) -> Any:
    """A uint32 with its bytes in the opposite order."""
    return np.uint32(
        (word << _TWENTY_FOUR)
        | ((word & _MIDDLE) << _EIGHT)
        | ((word >> _EIGHT) & _MIDDLE)
        | (word >> _TWENTY_FOUR)
    )


@compiled
def copy_swapped(words: Words, out: Words) -> None:
    """Copy words with their bytes in the opposite order; as many as `out` has."""
    for i in range(out.size):
        out[i] = swap_bytes(words[i])
