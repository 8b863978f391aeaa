"""Tensors of every layout reach the worker as flat arrays, and results come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from switchml.errors import UsageError
from switchml.torch_backend import tensors as tensors_module
from switchml.torch_backend.tensors import apart, assign, for_reduction, for_transfer

REDUCIBLE = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
ONLY_MOVABLE = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)


@st.composite
def tensors(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
    """Of 0 to 3 dimensions, permuted, with gaps, possibly empty."""
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    dtype = draw(st.sampled_from(dtypes))
    size = int(np.prod([2 * length for length in shape]))
    tensor = (
        (torch.arange(size, dtype=torch.float32) % 50).to(dtype).reshape([2 * length for length in shape])
    )
    for dimension in range(len(shape)):
        step = draw(st.sampled_from((1, 2)))
        tensor = tensor[(slice(None),) * dimension + (slice(None, None, step),)]
    return tensor.permute(draw(st.permutations(range(len(shape)))))


def raw(tensor: torch.Tensor) -> bytes:
    # A fresh copy: one element may count as contiguous whatever its stride.
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def overwrite(tensor: torch.Tensor, array: Any) -> bytes:
    array.view(np.uint8)[:] = 0 if tensor.dtype is torch.bool else 1
    return array.tobytes()


@given(tensors(REDUCIBLE + ONLY_MOVABLE))
def test_transfer_sees_and_changes_the_tensor(tensor: torch.Tensor) -> None:
    flat = for_transfer(tensor)
    assert flat.array.ndim == 1
    assert flat.array.flags.c_contiguous
    assert flat.array.tobytes() == raw(tensor)
    assert (flat.write_back is None) == tensor.is_contiguous()
    written = overwrite(tensor, flat.array)
    if flat.write_back is not None:
        flat.write_back()
    assert raw(tensor) == written


@given(tensors(REDUCIBLE))
def test_reduction_sees_and_changes_the_tensor(tensor: torch.Tensor) -> None:
    flat = for_reduction(tensor, "sum")
    assert flat.array.tobytes() == raw(tensor)
    assert flat.dtype == ("bfloat16" if tensor.dtype is torch.bfloat16 else None)
    assert flat.array.dtype == np.uint16 or flat.dtype is None
    written = overwrite(tensor, flat.array)
    if flat.write_back is not None:
        flat.write_back()
    assert raw(tensor) == written


@given(tensors(REDUCIBLE), st.booleans())
def test_assign_takes_what_reduction_and_transfer_give(tensor: torch.Tensor, reduction: bool) -> None:
    source = (for_reduction(tensor, "sum") if reduction else for_transfer(tensor)).array.copy()
    target = torch.zeros_like(tensor)
    assign(target, source)
    assert raw(target) == raw(tensor)


@pytest.mark.parametrize("dtype", ONLY_MOVABLE)
def test_dtypes_that_cannot_be_reduced(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match=f"{dtype} cannot be reduced"):
        for_reduction(torch.zeros(3).to(dtype), "sum")


@pytest.mark.parametrize("operation", ["min", "max", "prod"])
def test_complex_numbers_have_no_order(operation: str) -> None:
    with pytest.raises(UsageError, match="complex"):
        for_reduction(torch.zeros(3, dtype=torch.complex64), operation)


@pytest.mark.parametrize("operation", ["reduction", "transfer", "assign"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("view", ["conj", "conj of a part", "imag of conj", "negated conj", "transposed"])
def test_lazy_views_are_read_and_written_as_they_read(view: str, dtype: torch.dtype, operation: str) -> None:
    base = torch.complex(torch.arange(6.0), torch.arange(6.0) + 10).to(dtype).reshape(2, 3)
    lazy = {
        "conj": base.conj(),
        "conj of a part": base[:, ::2].conj(),
        "imag of conj": base.conj().imag,
        "negated conj": torch._neg_view(base.conj()),
        "transposed": base.conj().t(),
    }[view]
    values = lazy.clone().resolve_conj().resolve_neg().contiguous()
    wanted = values * 2 + 1
    if operation == "assign":
        assign(lazy, for_transfer(wanted).array)
    else:
        flat = for_reduction(lazy, "sum") if operation == "reduction" else for_transfer(lazy)
        assert flat.array.tobytes() == raw(values)
        flat.array.view(np.uint8)[:] = for_transfer(wanted).array.view(np.uint8)
        assert flat.write_back is not None
        flat.write_back()
    assert torch.equal(lazy.resolve_conj().resolve_neg(), wanted)


def test_other_devices_are_refused() -> None:
    with pytest.raises(UsageError, match=r"meta.*\.cpu\(\)"):
        for_transfer(torch.zeros(3, device="meta"))


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(UsageError, match="sparse"):
        for_reduction(torch.eye(3).to_sparse(), "sum")


def test_inference_tensors_can_be_written_after_inference_mode() -> None:
    with torch.inference_mode():
        tensor = torch.zeros(4, 2)
    flat = for_reduction(tensor.t(), "sum")
    flat.array[:] = 5
    assert flat.write_back is not None
    flat.write_back()
    assert torch.equal(tensor, torch.full((4, 2), 5.0))


@pytest.mark.parametrize("dtype", REDUCIBLE + ONLY_MOVABLE)
def test_no_array_marks_a_storage(dtype: torch.dtype) -> None:
    tensor = torch.zeros(4).to(dtype)
    flat = for_transfer(tensor)
    assign(tensor, flat.array.copy())
    if dtype in REDUCIBLE:
        for_reduction(tensor, "sum")
    assert tensor.untyped_storage().resizable()
    tensor.resize_(100)


def test_tensors_become_arrays_in_one_place() -> None:
    package = Path(tensors_module.__file__).parent
    assert [path.name for path in package.rglob("*.py") if ".numpy()" in path.read_text()] == []


def test_an_array_keeps_its_memory_alive() -> None:
    tensor = torch.full((100_000,), 3.0)
    flat = for_reduction(tensor, "sum")
    tensor.data = torch.zeros(1)
    del tensor
    torch.full((100_000,), 7.0)  # would come to lie where the first one was
    assert (flat.array == 3).all()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), max_size=8))
def test_arrays_apart_share_no_memory(spans: list[tuple[int, int]]) -> None:
    whole = torch.arange(32.0)
    flats = apart([for_reduction(whole[begin : begin + length], "sum") for begin, length in spans])
    for index, flat in enumerate(flats):
        begin, length = spans[index]
        assert flat.array.tolist() == whole[begin : begin + length].tolist()
        assert not any(np.shares_memory(flat.array, other.array) for other in flats[:index])
    assert sum(flat.write_back is None for flat in flats) >= min(1, len(flats))
