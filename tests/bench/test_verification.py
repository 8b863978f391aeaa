"""Data with known sums: what is right passes, what is wrong is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.bench.verification import (
    ELEMENT_TYPES,
    OPERATIONS,
    PERIOD,
    Array,
    ElementType,
    Expected,
    batch_limit,
    check_operation,
    element_type,
    fill,
    from_float64,
    table,
    timed_table,
    to_float64,
    verify,
)
from switchml.errors import UsageError

FLOATS = [kind for kind in ELEMENT_TYPES.values() if kind.floating]


def usable(kind: ElementType) -> list[str]:
    found = []
    for op in OPERATIONS:
        try:
            check_operation(kind, op)
        except UsageError:
            continue
        found.append(op)
    return found


CASES = [(kind, op) for kind in ELEMENT_TYPES.values() for op in usable(kind)]


def reduce_in_order(kind: ElementType, op: str, world_size: int, rounded: bool) -> Array:
    """What a system computes that reduces rank after rank in the type itself."""
    folds = {
        "sum": np.add,
        "avg": np.add,
        "prod": np.multiply,
        "min": np.minimum,
        "max": np.maximum,
        "band": np.bitwise_and,
        "bor": np.bitwise_or,
        "bxor": np.bitwise_xor,
    }
    total = table(kind, op, 0, world_size, rounded=rounded)
    for rank in range(1, world_size):
        part = table(kind, op, rank, world_size, rounded=rounded)
        with np.errstate(over="ignore"):
            if kind.floating:
                total = from_float64(kind, folds[op](to_float64(kind, total), to_float64(kind, part)))
            else:
                total = folds[op](total, part)
    if op == "avg":
        total = from_float64(kind, to_float64(kind, total) / world_size)
    return total


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(("kind", "op"), CASES, ids=lambda case: getattr(case, "name", case))
def test_a_plain_reduction_passes_without_a_block_bound(kind: ElementType, op: str, world_size: int) -> None:
    for rounded in (False, True) if kind.floating and op in ("sum", "avg") else (False,):
        buffer = np.empty(PERIOD + 1000, kind.storage)
        fill(buffer, reduce_in_order(kind, op, world_size, rounded))
        expected = Expected.of(kind, op, world_size, rounded=rounded)
        tolerance = expected.tolerance(world_size, rounded=rounded, op=op, block_bound=0.0)
        verdict = verify(buffer, expected, tolerance)
        assert (verdict.wrong, verdict.checked) == (0, buffer.size)


@given(st.integers(1, 3 * PERIOD), st.data())
def test_every_wrong_element_is_counted(size: int, data: st.DataObject) -> None:
    kind = element_type("float32")
    buffer = np.empty(size, np.float32)
    expected = Expected.of(kind, "sum", 2)
    fill(buffer, from_float64(kind, expected.values))
    places = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    for place in places:
        buffer[place] += 0.25
    verdict = verify(buffer, expected, expected.tolerance(2, rounded=False, op="sum", block_bound=0.0))
    assert (verdict.wrong, verdict.checked) == (len(places), size)
    assert verdict.worst == (0.25 if places else 0.0)


def test_nan_and_integers_off_by_one_are_wrong() -> None:
    floats = element_type("float32")
    buffer = from_float64(floats, Expected.of(floats, "sum", 2).values)
    buffer[7] = np.nan
    expected = Expected.of(floats, "sum", 2)
    assert verify(buffer, expected, np.full(PERIOD, 1e30)).wrong == 1
    integers = element_type("int64")
    exact = Expected.of(integers, "sum", 2)
    wrong = exact.values.copy()
    wrong[3] += 1
    assert verify(wrong, exact, exact.tolerance(2, rounded=True, op="sum", block_bound=9.0)).wrong == 1


def test_neighbouring_packets_differ() -> None:
    buffer = np.empty(4 * PERIOD, np.float32)
    fill(buffer, table(element_type("float32"), "sum", 0, 2))
    packets = buffer[: buffer.size // 256 * 256].reshape(-1, 256)
    assert len({packet.tobytes() for packet in packets}) == len(packets)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("world_size", [2, 3, 8, 100])
def test_timed_data_stays_finite_and_normal_through_a_batch(kind: ElementType, world_size: int) -> None:
    tables = [
        to_float64(kind, timed_table(kind, "sum", rank, world_size)) for rank in range(min(world_size, 4))
    ]
    largest = max(float(np.max(np.abs(one))) for one in tables)
    smallest = min(float(np.min(np.abs(one[one != 0]))) for one in tables)
    batch = batch_limit(kind, "sum", world_size)
    assert batch >= 2
    # The first sum of n tensors, then n-fold growth each time.
    assert np.log2(largest) + batch * np.log2(world_size) <= kind.ceiling
    assert smallest >= 2.0**kind.start


def test_operations_without_growth_have_no_limit() -> None:
    assert (
        batch_limit(element_type("float32"), "max", 8)
        == batch_limit(element_type("int32"), "sum", 8)
        == 1_000_000
    )


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100))
def test_bfloat16_rounds_to_nearest(value: float) -> None:
    kind = element_type("bfloat16")
    stored = from_float64(kind, np.array([value]))
    back = float(to_float64(kind, stored)[0])
    neighbours = [
        float(to_float64(kind, np.array([(int(stored[0]) + step) % 65536], np.uint16))[0]) for step in (-1, 1)
    ]
    assert all(abs(back - value) <= abs(other - value) for other in neighbours if np.isfinite(other))


@pytest.mark.parametrize(
    ("dtype", "op", "word"),
    [
        ("complex64", "sum", "dtype"),
        ("float32", "mean", "op"),
        ("float32", "bor", "integers"),
        ("int8", "avg", "floating"),
    ],
)
def test_what_has_no_meaning_is_refused(dtype: str, op: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        check_operation(element_type(dtype), op)
