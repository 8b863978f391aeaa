"""Compiled functions that a loop reaches by their address, so that what few runs want is compiled by those that want it.

A loop contains all that it may call, and is compiled for it. Where a state has the address of a function in place of a switch
that is on or off, the function is a piece of its own, compiled (and kept on disk) when somebody first asks for the address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from switchml.protocol.jit import DISABLED
from switchml.protocol.prepare import prepare

_Arguments: Any = types.StarArgTuple  # numba has no types
_WORD = ir.IntType(64)
_in_python: list[Callable[..., int]] = []


def address_of(function: Callable[..., int], name: str, arguments: int) -> int:
    """Where a function lies, never 0; compiles it or loads it from the cache.

    Args:
        function: made by `jit.compiled`, of integers, of which it returns one.
        name: what it is called in a notice on stderr.
        arguments: how many it takes.
    """
    if DISABLED:
        if function not in _in_python:
            _in_python.append(function)
        return 1 + _in_python.index(function)
    compiled_function: Any = function
    prepare(compiled_function, name, *[0] * arguments)
    result = compiled_function.overloads[(types.int64,) * arguments]
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
    return address


if DISABLED:

    def call_at(address: int, *arguments: int) -> int:
        """In plain Python."""
        return _in_python[address - 1](*arguments)

else:

    @intrinsic
    def call_at(context: Any, address: Any, *arguments: Any) -> Any:
        """Call what `address_of` found, from compiled code, with as many integers as it takes."""

        def build(target: Any, builder: Any, signature: Any, values: Any) -> Any:
            place, packed = values
            given = [
                target.cast(builder, builder.extract_value(packed, index), kind, types.int64)
                for index, kind in enumerate(signature.args[1])
            ]
            kind = ir.FunctionType(_WORD, [_WORD] * len(given))
            return builder.call(builder.inttoptr(place, kind.as_pointer()), given)

        return types.int64(types.int64, _Arguments(arguments)), build
