"""Memory that other processes or other threads write: arrays over addresses, ordered loads and stores, fences.

Each intrinsic has a plain Python twin for `NUMBA_DISABLE_JIT=1`, where the interpreter's own order is enough.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import numpy_support

from switchml.protocol.jit import DISABLED, compiled, inlined

_pack_array: Any = cgutils.pack_array  # numba has no types
_dtype_of: Any = numpy_support.as_dtype

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.int64]


def build_array(context: Any, builder: Any, array_type: Any, address: Any, shape: list[Any]) -> Any:
    """For intrinsics: the array of a type and shape that lies at an address, in C order."""
    kind: Any = context.get_value_type(array_type)
    parts = context.data_model_manager[array_type]
    size = context.get_constant(types.intp, _dtype_of(array_type.dtype).itemsize)
    strides, items = [size], shape[0]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
        items = builder.mul(items, length)
    # One value, not stores into memory: there are hundreds in a function, and the optimiser has them to take out again.
    array = ir.Constant(kind, ir.Undefined)
    for name, value in {
        "meminfo": None,
        "parent": None,
        "nitems": items,
        "itemsize": size,
        "data": builder.inttoptr(address, kind.elements[parts.get_field_position("data")]),
        "shape": _pack_array(builder, shape),
        "strides": _pack_array(builder, strides),
    }.items():
        place = parts.get_field_position(name)
        part = ir.Constant(kind.elements[place], None) if value is None else value
        array = builder.insert_value(array, part, place)
    return array


if DISABLED:

    def bytes_at(address: int, length: int) -> Bytes:
        """In plain Python."""
        # ctypes refuses numpy's integers, which addresses in records are.
        return np.frombuffer(memoryview((ctypes.c_uint8 * int(length)).from_address(int(address))), np.uint8)

    def array_at(address: int, count: int, dtype: Any) -> Any:
        """In plain Python."""
        return bytes_at(address, count * np.dtype(dtype).itemsize).view(dtype)

    def load_acquire(array: Longs, index: int) -> int:
        """In plain Python."""
        return int(array[index])

    def store_release(array: Longs, index: int, value: int) -> None:
        """In plain Python."""
        array[index] = value

    def fetch_add(array: Longs, index: int, value: int) -> int:
        """In plain Python."""
        before = int(array[index])
        array[index] = before + value
        return before

    def compare_and_swap(array: Longs, index: int, expected: int, value: int) -> bool:
        """In plain Python."""
        if array[index] != expected:
            return False
        array[index] = value
        return True

    def fence() -> None:
        """In plain Python."""
        return None

else:

    @intrinsic
    def array_at(typing_context: Any, address: Any, count: Any, dtype: Any) -> Any:
        """`count` elements of a dtype at an address; the caller keeps the memory alive."""
        array_type = types.Array(dtype.dtype, 1, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build_array(context, builder, array_type, arguments[0], [arguments[1]])

        return array_type(types.intp, types.intp, dtype), generate

    @inlined
    def bytes_at(address: int, length: int) -> Bytes:
        """The memory at `address` as a uint8 array of that length; the caller keeps it alive."""
        view: Bytes = array_at(address, length, np.uint8)
        return view

    def _element_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
        data = context.make_array(array_type)(context, builder, array).data
        return builder.gep(data, [index])

    @intrinsic
    def load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
        """`array[index]` of an int64 array; later reads are not moved before it."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            return builder.load_atomic(pointer, "acquire", 8)

        return types.int64(array, types.intp), generate

    @intrinsic
    def store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        """`array[index] = value`; earlier writes are seen by whoever sees this one."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            builder.store_atomic(arguments[2], pointer, "release", 8)
            return context.get_dummy_value()

        return types.none(array, types.intp, types.int64), generate

    @intrinsic
    def fetch_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        """Add to `array[index]` in one step; returns the value before."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            return builder.atomic_rmw("add", pointer, arguments[2], "seq_cst")

        return types.int64(array, types.intp, types.int64), generate

    @intrinsic
    def compare_and_swap(typing_context: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
        """In one step `array[index] = value`, if it is `expected`; returns whether it was. Ordered both ways when it was."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _element_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            outcome = builder.cmpxchg(pointer, arguments[2], arguments[3], "acq_rel", "monotonic")
            return builder.extract_value(outcome, 1)

        return types.boolean(array, types.intp, types.int64, types.int64), generate

    @intrinsic
    def fence(typing_context: Any) -> Any:
        """Full fence: a store before it is seen before a load after it is done."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.none(), generate


@compiled
def copy_bytes(source: Bytes, out: Bytes) -> None:
    """out[:] = source, which must not overlap: an assignment would make sure of that by a copy."""
    for i in range(out.size):
        out[i] = source[i]
