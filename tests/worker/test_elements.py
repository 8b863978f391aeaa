"""Dtypes and operations."""

from __future__ import annotations

import numpy as np
import pytest

from switchml.errors import UsageError
from switchml.worker import elements
from switchml.worker.signature import DTYPES
from switchml.worker.signature import OPERATIONS as NAMED


@pytest.mark.parametrize(
    ("dtype", "op", "way"),
    [
        ("float32", "sum", "blocks"), ("float16", "avg", "blocks"), ("bfloat16", "sum", "blocks"),
        ("int32", "sum", "words"), ("int16", "sum", "words"), ("int8", "sum", "words"),
        ("uint8", "sum", "words"), ("float64", "sum", ""), ("int64", "sum", ""), ("float32", "max", ""),
        ("int32", "prod", ""), ("bool", "sum", ""), ("uint32", "sum", ""), ("complex64", "sum", ""),
    ],
)  # fmt: skip
def test_what_the_switch_can_add(dtype: str, op: str, way: str) -> None:
    assert elements.summed_as(dtype, op) == way


@pytest.mark.parametrize("name", [name for name in DTYPES if name not in ("bytes", "bfloat16")])
def test_every_dtype_of_the_wire_is_taken(name: str) -> None:
    assert elements.dtype_name(np.zeros(1, name), None) == name


def test_bfloat16_is_named_over_two_bytes() -> None:
    assert elements.dtype_name(np.zeros(1, np.uint16), "bfloat16") == "bfloat16"
    assert elements.dtype_name(np.zeros(1, np.uint16), None) == "uint16"


@pytest.mark.parametrize(
    "dtype", ["U3", "S4", "O", ">f4", ">i2", "datetime64[s]", "longdouble", "clongdouble", "V8"]
)
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(UsageError, match="cannot be sent"):
        elements.dtype_name(np.zeros(1, dtype), None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "nonsense"])
def test_a_name_that_does_not_fit_is_refused(dtype: str) -> None:
    with pytest.raises(UsageError, match="does not fit an array of float32"):
        elements.dtype_name(np.zeros(1, np.float32), dtype)


@pytest.mark.parametrize(
    ("dtype", "op", "why"),
    [
        ("float32", "mean", "none of sum, avg"), ("float32", "band", "not defined"), ("bfloat16", "bxor", "not defined"),
        ("int32", "avg", "whole number"), ("bool", "avg", "whole number"), ("complex64", "min", "not defined"),
    ],
)  # fmt: skip
def test_operations_without_meaning_are_refused(dtype: str, op: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        elements.check_operation(dtype, op)


def test_operations_have_names_on_the_wire() -> None:
    assert ("none", *elements.OPERATIONS) == NAMED


@pytest.mark.parametrize("op", elements.OPERATIONS)
@pytest.mark.parametrize(
    "name", ["float32", "float64", "float16", "int8", "uint8", "int64", "uint64", "bool", "complex128"]
)
def test_rows_are_reduced_as_numpy_does_in_order(name: str, op: str) -> None:
    try:
        elements.check_operation(name, op)
    except UsageError:
        return
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((4, 50)) * 3).astype(name)
    out = np.empty(50, rows.dtype)
    elements.reduce_rows(rows, name, op, out)
    plain = {
        "sum": np.add, "avg": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum, "band": np.bitwise_and,
        "bor": np.bitwise_or, "bxor": np.bitwise_xor,
    }[op]  # fmt: skip
    total = rows[0].astype(np.float32) if name == "float16" else rows[0]
    for row in rows[1:]:
        total = plain(total, row.astype(total.dtype))
    if op == "avg":
        total = total / total.dtype.type(4)
    assert out.tobytes() == total.astype(name).tobytes()


def test_non_finite_rows_follow_ieee() -> None:
    rows = np.array([[np.inf, np.inf, 3e38, np.nan], [1, -np.inf, 3e38, 1]], np.float32)
    out = np.empty(4, np.float32)
    elements.reduce_rows(rows, "float32", "sum", out)
    assert out[0] == np.inf
    assert np.isnan(out[1])
    assert out[2] == np.inf
    assert np.isnan(out[3])


def test_bfloat16_rows_are_reduced_in_float32() -> None:
    # 256 + 1 is no bfloat16, 256 + 1 + 1 is.
    rows = np.array([[0x4380], [0x3F80], [0x3F80]], np.uint16)
    out = np.empty(1, np.uint16)
    elements.reduce_rows(rows, "bfloat16", "sum", out)
    assert out[0] == 0x4381


@pytest.mark.parametrize(
    ("name", "wide"), [("float16", np.float32), ("int16", np.int32), ("int8", np.int32), ("uint8", np.int32)]
)
def test_widening_and_narrowing_are_inverse(name: str, wide: type) -> None:
    values = np.array([0, 1, 2, 100, 127], name)
    staged: np.ndarray = np.empty(5, wide)
    elements.widen(values, name, staged)
    assert staged.tolist() == [0, 1, 2, 100, 127]
    out = np.empty(5, name)
    elements.narrow(staged, name, out)
    assert np.array_equal(out, values)


def test_narrow_integers_wrap_around_and_halves_overflow_to_infinity() -> None:
    small = np.empty(2, np.int8)
    elements.narrow(np.array([128, -129], np.int32), "int8", small)
    assert small.tolist() == [-128, 127]
    half = np.empty(1, np.float16)
    elements.narrow(np.array([1e6], np.float32), "float16", half)
    assert np.isinf(half[0])
