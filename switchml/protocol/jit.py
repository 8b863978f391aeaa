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

_outer: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_inner: Any = numba.njit(nogil=True, cache=True, error_model="numpy", inline="never")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function to machine code that runs without the GIL and is cached on disk."""
    return cast(Callable[P, R], _outer(function))
