"""Records and states, each declared once as a class: layout, typed access, address table and view are derived from it.

A record is a TypedDict whose annotations name the width of each field; `Records[Sender]` is an array of them, a structured
array of numpy's of which mypy knows the fields:

    class Sender(TypedDict):
        port: Int64
        seen: Annotated[NDArray[np.uint64], (4,)]

A state is a NamedTuple of arrays, numbers and other states. A compiled call passes every field of every array it is given,
hundreds of words for a whole switch, and counts a reference to each: more than a microsecond, ten times what a packet takes.
So the loops pass the address of a table of addresses instead (`table_of`), and each function opens what it needs
(`view_of`); the compiler drops the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from math import prod
from operator import itemgetter
from typing import (
    Annotated,
    Any,
    NamedTuple,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import from_dtype, types
from numba.extending import intrinsic

from switchml.link.memory import array_at, build_array
from switchml.protocol.jit import DISABLED

Int8 = Annotated[int, np.int8]
Int16 = Annotated[int, np.int16]
Int32 = Annotated[int, np.int32]
Int64 = Annotated[int, np.int64]
UInt8 = Annotated[int, np.uint8]
UInt16 = Annotated[int, np.uint16]
UInt32 = Annotated[int, np.uint32]
UInt64 = Annotated[int, np.uint64]
Float64 = Annotated[float, np.float64]

R = TypeVar("R")
S = TypeVar("S", bound=tuple[Any, ...])

_ENTRY_BYTES = 16
_named_tuple: Any = types.NamedTuple  # numba has no types


class Records(Protocol[R]):
    """What an array of records R can do; it is a one-dimensional structured array, made by `new_records`."""

    @property
    def size(self) -> int:
        """Records."""

    @property
    def ctypes(self) -> Any:
        """As of any array of numpy's."""

    @overload
    def __getitem__(self, key: int) -> R: ...
    @overload
    def __getitem__(self, key: slice | npt.NDArray[Any]) -> Records[R]: ...
    @overload
    def __getitem__(self, key: str) -> npt.NDArray[Any]: ...
    @overload
    def __setitem__(self, key: int, value: R | tuple[Any, ...]) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Records[R]) -> None: ...
    @overload
    def __setitem__(self, key: str, value: Any) -> None: ...


class _Array(NamedTuple):
    """An array of a state: its dtype, and its shape, in which -1 stands for what the size leaves."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _State(NamedTuple):
    """A state: its class, and its parts by name, each an _Array, a _State or, for a number, `int`."""

    kind: type[Any]
    parts: dict[str, Any]


def _part(hint: Any, shape: tuple[int, ...] = (-1,)) -> Any:
    if get_origin(hint) is Annotated:
        hint, shape = get_args(hint)
    if get_origin(hint) is Records:
        return _Array(dtype_of(get_args(hint)[0]), shape)
    if get_origin(hint) is np.ndarray:
        return _Array(np.dtype(get_args(get_args(hint)[1])[0]), shape)
    return int if hint is int else _state(hint)


def _state(kind: type[Any]) -> _State:
    hints = get_type_hints(kind, include_extras=True)
    return _State(kind, {name: _part(hint) for name, hint in hints.items()})


def dtype_of(record: type[Any]) -> np.dtype[Any]:
    """The layout of a record: its fields in order, aligned as C does."""
    fields: list[Any] = []
    for name, hint in get_type_hints(record, include_extras=True).items():
        kind, extra = get_args(hint)
        fields.append((name, extra) if kind in (int, float) else (name, *_part(hint)))
    return np.dtype(fields, align=True)


def new_records(record: type[R], size: int) -> Records[R]:
    """`size` records, all zero."""
    return cast(Records[R], np.zeros(size, dtype_of(record)))


def row_of(record: type[R]) -> Callable[[R], tuple[Any, ...]]:
    """The function that puts a record's values in order, for assigning all at once: by name it takes ten times as long."""
    return cast(Callable[[R], tuple[Any, ...]], itemgetter(*dtype_of(record).fields or ()))


def _entries(state: _State, values: tuple[Any, ...]) -> Iterator[tuple[int, int]]:
    for (name, part), value in zip(state.parts.items(), values, strict=True):
        if part is int:
            yield int(value), 0
        elif isinstance(part, _State):
            yield from _entries(part, value)
        else:
            fits = len(value.shape) == len(part.shape) and all(
                declared in (-1, length) for declared, length in zip(part.shape, value.shape, strict=True)
            )
            if value.dtype != part.dtype or not fits or not value.flags.c_contiguous:
                raise ValueError(f"{state.kind.__name__}.{name} is no contiguous array as declared: {part}")
            yield value.ctypes.data, value.size


def table_of(state: tuple[Any, ...]) -> npt.NDArray[np.int64]:
    """Address and size of every array of a state, in order; of a number the number and 0. Its own address is the handle.

    Whoever uses the handle keeps both the table and the arrays alive.

    Raises:
        ValueError: an array is not what the state's class declares.
    """
    return np.array(list(_entries(_state(type(state)), state)), np.int64).reshape(-1)


def _assemble(
    state: _State, entries: Iterator[Any], array: Callable[..., Any], whole: Callable[..., Any]
) -> Any:
    """A state out of its entries, each an address, or a number, and a size."""
    values = []
    for part in state.parts.values():
        if isinstance(part, _State):
            values.append(_assemble(part, entries, array, whole))
        else:
            address, size = next(entries)
            values.append(address if part is int else array(part, address, size))
    return whole(state, values)


def _compiled_type(part: Any) -> Any:
    if part is int:
        return types.int64
    if isinstance(part, _Array):
        return types.Array(from_dtype(part.dtype), len(part.shape), "C")
    return _named_tuple([_compiled_type(each) for each in part.parts.values()], part.kind)


def view_of(state: type[S]) -> Callable[[int], S]:
    """The function, for compiled code, that gives the state behind a handle."""
    declared = _state(state)

    def plain_view(handle: int) -> S:
        def array(part: _Array, address: int, size: int) -> Any:
            return array_at(address, size, part.dtype).reshape(part.shape)

        entries = (array_at(entry, 2, np.int64).tolist() for entry in count(handle, _ENTRY_BYTES))
        return cast(S, _assemble(declared, entries, array, lambda state, values: state.kind(*values)))

    @intrinsic
    def view(typing_context: Any, handle: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            table = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

            def number(value: int) -> Any:
                return context.get_constant(types.intp, value)

            def load(word: int) -> Any:
                return builder.load(builder.gep(table, [number(word)]))

            def array(part: _Array, address: Any, size: Any) -> Any:
                rest = builder.sdiv(size, number(abs(prod(part.shape))))
                shape = [rest if length < 0 else number(length) for length in part.shape]
                return build_array(context, builder, _compiled_type(part), address, shape)

            def whole(state: _State, values: list[Any]) -> Any:
                return context.make_tuple(builder, _compiled_type(state), values)

            return _assemble(declared, ((load(word), load(word + 1)) for word in count(0, 2)), array, whole)

        return _compiled_type(declared)(types.intp), generate

    return plain_view if DISABLED else cast(Callable[[int], S], view)
