"""How this project compiles its hot functions.

One source is the fast path, the oracle of the tests and what the checker explores: with `NUMBA_DISABLE_JIT=1`
the same functions run as plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")

DISABLED: bool = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]

_njit: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_njit_inline: Any = numba.njit(nogil=True, cache=True, error_model="numpy", forceinline=True)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code that runs without the GIL and is cached on disk."""
    return cast(Callable[P, R], _njit(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """As `compiled`, and always expanded where it is called: for functions that take a state of many arrays,
    because a call passes every field of every array, hundreds of words, over the stack, and counts a
    reference to each.
    """
    return cast(Callable[P, R], _njit_inline(function))
