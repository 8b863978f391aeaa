"""States of many arrays as one number.

A compiled call passes every field of every array it is given, hundreds of words for a whole switch, and
counts a reference to each: more than a microsecond, ten times what a packet takes. So the loops pass the
address of a table of addresses instead, and each function opens what it needs; the compiler drops the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.link.memory import array_at, load_long
from switchml.protocol.jit import inlined


def _flatten(tree: Any, into: list[tuple[int, int]]) -> None:
    if isinstance(tree, np.ndarray):
        if not tree.flags.c_contiguous:
            raise ValueError("only contiguous arrays have one address")
        into.append((tree.ctypes.data, tree.size))
    elif isinstance(tree, tuple):
        for part in tree:
            _flatten(part, into)
    else:
        into.append((int(tree), 0))


def table_of(tree: Any) -> npt.NDArray[np.int64]:
    """Address and size of every array of nested tuples, in order; of a number the number and 0. Its own address is the handle.

    Whoever uses the handle keeps both the table and the arrays alive.
    """
    entries: list[tuple[int, int]] = []
    _flatten(tree, entries)
    return np.array(entries, np.int64).reshape(-1)


@inlined
def word(handle: int, index: int) -> int:
    """The `index`-th number of a table."""
    return load_long(handle + 16 * index)


@inlined
def part(handle: int, index: int, dtype: Any) -> Any:
    """The `index`-th array of a table, one-dimensional."""
    return array_at(load_long(handle + 16 * index), load_long(handle + 16 * index + 8), dtype)
