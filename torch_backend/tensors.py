"""Torch tensors as the flat numpy arrays that a worker takes, sharing memory wherever the layout allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from switchml.errors import UsageError

Array = np.ndarray[Any, Any]

NUMPY_TYPES = {
    torch.float64: np.dtype(np.float64).str,
    torch.float32: np.dtype(np.float32).str,
    torch.float16: np.dtype(np.float16).str,
    torch.int64: np.dtype(np.int64).str,
    torch.int32: np.dtype(np.int32).str,
    torch.int16: np.dtype(np.int16).str,
    torch.int8: np.dtype(np.int8).str,
    torch.uint8: np.dtype(np.uint8).str,
    torch.bool: np.dtype(np.bool_).str,
}
"""The dtypes that numpy knows, by numpy's name."""
# Only moved, never added: any integers of the same size will do.
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def tensors_in(*arguments: Any) -> Iterator[torch.Tensor]:
    """All tensors in arguments of a collective, which may be lists of lists."""
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, Sequence) and not isinstance(argument, str):
            yield from tensors_in(*argument)


def on_device(arguments: tuple[Any, ...]) -> bool:
    """Is there a tensor on a GPU in these arguments? Before CUDA's first use in the process there is none."""
    return torch.cuda.is_initialized() and any(tensor.is_cuda for tensor in tensors_in(*arguments))


class _Memory:
    """What numpy takes an array's memory from, and the array's `base`, by which the tensor lives as long as the array."""

    __slots__ = ("__array_interface__", "_tensor")

    def __init__(self, tensor: torch.Tensor, dtype: str) -> None:
        size = tensor.element_size()
        self._tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "typestr": dtype,
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple([stride * size for stride in tensor.stride()]),
        }


def memory_of(tensor: torch.Tensor) -> Array:
    """A dense CPU tensor's memory as an array: the one place where tensors become arrays.

    `Tensor.numpy` would mark the storage, which nobody could resize from then on; FSDP frees its parameters that way. As with
    any backend, who resizes a storage under a collective in flight takes its memory away.

    Args:
        tensor: of a dtype that numpy knows, detached: what happens to the caller's own tensor (`data`, `set_`) is nothing to it.
    """
    if tensor.numel() == 0:  # torch has no address for it
        return np.empty(tuple(tensor.shape), NUMPY_TYPES[tensor.dtype])
    return np.asarray(_Memory(tensor, NUMPY_TYPES[tensor.dtype]))


class Flat(NamedTuple):
    """A tensor as a worker takes it.

    Attributes:
        array: one-dimensional, C-contiguous, of the tensor's elements in row-major order.
        dtype: the dtype to name to the worker where the array's own does not tell (bfloat16); else None.
        write_back: copies the array into the tensor; None where they share memory.
    """

    array: Array
    dtype: str | None
    write_back: Callable[[], None] | None


def for_reduction(tensor: torch.Tensor, operation: str) -> Flat:
    """A dense CPU tensor of any shape, to be reduced with `operation`. Complex numbers go as pairs of reals.

    Raises:
        UsageError: not a dense CPU tensor, or a dtype that cannot be reduced.
    """
    if tensor.is_complex() and operation not in ("sum", "avg"):
        raise UsageError(f"{operation} of complex tensors has no meaning: only SUM and AVG do")
    if is_lazy(tensor):
        return _resolved(tensor, lambda values: for_reduction(values, operation))
    view = _real_view(tensor)
    if view.dtype is torch.bfloat16:
        return _flat(view.view(torch.int16), np.uint16, "bfloat16")
    if view.dtype not in NUMPY_TYPES:
        raise UsageError(
            f"{tensor.dtype} cannot be reduced by the backend switchml; cast it, say to float32 or int64"
        )
    return _flat(view)


def apart(flats: Sequence[Flat]) -> list[Flat]:
    """The same, none of them in the memory of another, so that no result is written where an input is still to be read."""
    separate = list(flats)
    end = 0
    for index in sorted(range(len(flats)), key=lambda index: _address(flats[index].array)):
        flat = flats[index]
        if flat.write_back is not None or flat.array.size == 0:
            continue  # a copy already
        begin = _address(flat.array)
        if begin < end:
            separate[index] = _copied(flat)
        else:
            end = begin + flat.array.nbytes
    return separate


def _address(array: Array) -> int:
    address: int = array.ctypes.data
    return address


def _copied(flat: Flat) -> Flat:
    copy = flat.array.copy()
    return Flat(copy, flat.dtype, lambda: np.copyto(flat.array, copy))


def for_transfer(tensor: torch.Tensor) -> Flat:
    """A dense CPU tensor of any shape and dtype, to be moved as it is.

    Raises:
        UsageError: not a dense CPU tensor.
    """
    if is_lazy(tensor):
        return _resolved(tensor, for_transfer)
    return _flat(_movable_view(tensor))


def assign(tensor: torch.Tensor, values: Array) -> None:
    """Fill a dense CPU tensor, in row-major order, with as many elements in the representation of a `Flat`."""
    if is_lazy(tensor):
        given = torch.empty(tensor.shape, dtype=tensor.dtype)
        assign(given, values)
        _put_back(tensor, given)
        return
    target = memory_of(_movable_view(tensor))
    np.copyto(target, values.view(target.dtype).reshape(target.shape))


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements are those in memory, one after the other, on the CPU, and no subclass has a say in it."""
    return (
        type(tensor) in _PLAIN
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and tensor.numel() > 0
        and not is_lazy(tensor)
    )


def is_lazy(tensor: torch.Tensor) -> bool:
    """Whether the memory holds other values than the tensor: it is to be conjugated or negated when it is read."""
    return tensor.is_conj() or tensor.is_neg()


def _resolved(tensor: torch.Tensor, flat_of: Callable[[torch.Tensor], Flat]) -> Flat:
    values = tensor.detach().resolve_conj().resolve_neg().contiguous()
    flat = flat_of(values)
    return Flat(flat.array, flat.dtype, lambda: _put_back(tensor, values))


def _put_back(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Make `tensor` hold `values` by what its memory is to hold for that."""
    memory = tensor.detach()
    if memory.is_conj():
        memory, values = memory.conj(), values.conj().resolve_conj()
    if memory.is_neg():
        memory, values = torch._neg_view(memory), values.neg()
    target, source = memory_of(_movable_view(memory)), memory_of(_movable_view(values))
    np.copyto(target, source.reshape(target.shape))


def _real_view(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cpu or tensor.layout is not torch.strided:
        raise UsageError(
            f"the backend switchml takes dense CPU tensors, not {tensor.layout} on {tensor.device}; "
            "move it with .cpu() or .to_dense(), or use another backend for that device"
        )
    view = tensor.detach()
    return torch.view_as_real(view) if view.is_complex() else view


def _movable_view(tensor: torch.Tensor) -> torch.Tensor:
    view = _real_view(tensor)
    return view if view.dtype in NUMPY_TYPES else view.view(_SAME_SIZE[view.element_size()])


def _flat(view: torch.Tensor, numpy_dtype: type[np.generic] | None = None, dtype: str | None = None) -> Flat:
    target = memory_of(view)
    if numpy_dtype is not None:
        target = target.view(numpy_dtype)
    if view.is_contiguous():
        return Flat(target.reshape(-1), dtype, None)
    array = np.ascontiguousarray(target).reshape(-1)

    # Through numpy: torch forbids in-place writes to inference tensors once inference mode has ended.
    def write_back() -> None:
        np.copyto(target, array.reshape(target.shape))

    return Flat(array, dtype, write_back)
