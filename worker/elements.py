"""Arrays of any dtype as what the wire takes: float32 blocks or 32-bit words, and reductions done by the worker itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from switchml.errors import UsageError
from switchml.worker.kernels import add_rows, narrow_bfloat16, widen_bfloat16

Array = npt.NDArray[Any]

BFLOAT16 = "bfloat16"
_THROUGH_FLOAT32 = ("float32", "float16", BFLOAT16)
_THROUGH_INT32 = ("int32", "int16", "int8", "uint8")
_UFUNCS: dict[str, Callable[..., Any]] = {
    "sum": np.add,
    "avg": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
OPERATIONS = tuple(_UFUNCS)


_known: dict[np.dtype[Any], str] = {}


def dtype_name(array: Array, dtype: str | None) -> str:
    """The name the wire knows the array's dtype by; `dtype` says so where numpy cannot.

    Raises:
        UsageError: a dtype this library does not reduce.
    """
    if dtype is None and array.dtype in _known:
        return _known[array.dtype]
    name = dtype or array.dtype.name
    if name == BFLOAT16 and array.dtype.itemsize == 2:
        return name
    if name != array.dtype.name:
        raise UsageError(
            f"dtype={name!r} does not fit an array of {array.dtype.name}; only 'bfloat16' over uint16 may be named"
        )
    if (
        array.dtype.kind not in "iufcb"
        or array.dtype.itemsize > 16
        or name in ("float128", "longdouble")
        or not array.dtype.isnative
    ):
        raise UsageError(
            f"arrays of {array.dtype} cannot be sent; use a native float, int, uint, bool or complex dtype"
        )
    return _known.setdefault(array.dtype, name)


def check_operation(name: str, op: str) -> None:
    """Raise UsageError unless the operation is defined for the dtype."""
    if op not in _UFUNCS:
        raise UsageError(f"operation {op!r} is none of {', '.join(OPERATIONS)}")
    floating = name.startswith(("float", "bfloat", "complex"))
    if op in ("band", "bor", "bxor") and floating:
        raise UsageError(f"{op} is not defined for {name}")
    if op == "avg" and not floating:
        raise UsageError(f"avg of {name} would not be a whole number: use sum and divide")
    if op in ("min", "max") and name.startswith("complex"):
        raise UsageError(f"{op} is not defined for {name}")


def summed_as(name: str, op: str) -> str:
    """How the switch can do it: "blocks" (float32), "words" (int32) or "" (it cannot: exact gather)."""
    if op in ("sum", "avg") and name in _THROUGH_FLOAT32:
        return "blocks"
    return "words" if op == "sum" and name in _THROUGH_INT32 else ""


def widen(values: Array, name: str, out: Array) -> None:
    """Values of dtype `name` into `out`, float32 or int32."""
    if name == BFLOAT16:
        widen_bfloat16(values.view(np.uint16), out.view(np.uint32))
    else:
        out[...] = values


def narrow(values: Array, name: str, out: Array) -> None:
    """The inverse of `widen`: rounds to nearest, integers wrap around."""
    if name == BFLOAT16:
        narrow_bfloat16(values.view(np.uint32), out.view(np.uint16))
    else:
        with np.errstate(over="ignore"):  # beyond float16 is Inf, as in any sum of float16
            out[...] = values.astype(out.dtype)


def reduce_rows(rows: Array, name: str, op: str, out: Array) -> None:
    """Reduce rows (workers, count) of dtype `name` in the order of ranks, so that all ranks get the same bits."""
    if name == "float32" and op in ("sum", "avg") and rows.strides[1] == 4 and out.flags.c_contiguous:
        # As prepared calls do it: NaNs keep their bits, too.
        first, stride = _address(rows), rows.strides[0] // 4
        add_rows(first, stride, len(rows), rows.shape[1], _address(out), len(rows) if op == "avg" else 1)
        return
    ufunc = _UFUNCS[op]
    with np.errstate(all="ignore"):
        if name in ("float16", BFLOAT16):
            wide = np.empty(rows.shape, np.float32)
            for row, target in zip(rows, wide, strict=True):
                widen(row, name, target)
            total = _accumulate(ufunc, wide)
            narrow(total / np.float32(len(rows)) if op == "avg" else total, name, out)
            return
        total = _accumulate(ufunc, rows)
        out[...] = total / out.dtype.type(len(rows)) if op == "avg" else total


def _accumulate(ufunc: Callable[..., Any], rows: Array) -> Array:
    total: Array = rows[0].copy()
    for row in rows[1:]:
        ufunc(total, row, out=total)
    return total


def _address(array: Array) -> int:
    address: int = array.ctypes.data
    return address
