"""Loops over blocks, against numpy in float64 and torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol.numerics import EXACT_EXPONENT, MIN_EXPONENT, error_bound, scale_exponent
from switchml.worker.kernels import (
    block_exponent,
    dequantize,
    dequantize_onto,
    narrow_bfloat16,
    power_of_two,
    quantize,
    widen_bfloat16,
)

finite = st.floats(-(2.0**125), 2.0**125, width=32)
blocks = st.lists(finite, min_size=1, max_size=40)


def _sum(parts: list[np.ndarray], workers: int) -> tuple[np.ndarray, int, np.ndarray]:
    """What the switch would make of these workers' blocks: values, common exponent, raw sums."""
    exponent = max(block_exponent(part) for part in parts)
    total = np.zeros(parts[0].size, np.int64)
    words = np.zeros(parts[0].size, np.uint32)
    for part in parts:
        quantize(part, words, exponent, workers)
        total += words.view(">i4").astype(np.int64)
    out = np.zeros(parts[0].size, np.float32)
    dequantize(total.astype(">i4").view(np.uint32), out, exponent, workers)
    return out, exponent, total


@given(st.integers(-126, 127))
def test_powers_of_two(exponent: int) -> None:
    assert float(power_of_two(exponent)) == 2.0**exponent


@given(st.lists(st.floats(width=32), max_size=40))
def test_block_exponent_bounds_every_magnitude(values: list[float]) -> None:
    block = np.array(values, np.float32)
    exponent = block_exponent(block)
    if not np.isfinite(block).all() or (np.abs(block) >= 2.0**126).any():
        assert exponent == EXACT_EXPONENT
        return
    assert (np.abs(block) < 2.0**exponent).all()
    largest = np.abs(block).max(initial=0)
    assert exponent == MIN_EXPONENT or largest >= 2.0 ** (exponent - 1)


@given(st.lists(blocks, min_size=1, max_size=6))
def test_the_error_of_a_sum_is_within_its_bound(rows: list[list[float]]) -> None:
    length = min(map(len, rows))
    parts = [np.array(row[:length], np.float32) for row in rows]
    _, exponent, total = _sum(parts, len(parts))
    scale = 2.0 ** -scale_exponent(exponent, len(parts))
    exact = np.sum([part.astype(np.longdouble) for part in parts], axis=0)
    assert (np.abs(total.astype(np.longdouble) * scale - exact) <= error_bound(exponent, len(parts))).all()


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8, 31, 32])
def test_the_bound_is_reached(workers: int) -> None:
    """Everybody rounds by half a unit in the same direction."""
    unit = np.float32(2.0 ** -scale_exponent(1, workers))
    part = np.array([1.5, 2.5 * unit], np.float32)
    _, exponent, total = _sum([part] * workers, workers)
    assert exponent == 1
    assert abs(float(total[1]) * float(unit) - workers * 2.5 * float(unit)) == error_bound(1, workers)


@pytest.mark.parametrize("workers", [*range(1, 34), 64, 127, 128, 129, 255, 256])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_values_do_not_overflow(workers: int, sign: int) -> None:
    for exponent in (MIN_EXPONENT, -1, 0, 100, 126):
        extreme = np.float32(sign) * np.nextafter(np.float32(2.0**exponent), np.float32(0))
        part = np.array([extreme, np.float32(sign * 2.0 ** (exponent - 1))], np.float32)
        _, found, total = _sum([part] * workers, workers)
        assert found == exponent
        assert (np.abs(total) <= 2**31 - 1).all()
        exact = workers * part.astype(np.longdouble)
        error = np.abs(total * np.longdouble(2.0) ** -scale_exponent(found, workers) - exact)
        assert (error <= error_bound(found, workers)).all()


@given(blocks)
def test_one_worker_s_large_elements_come_back_unchanged(values: list[float]) -> None:
    """Within 7 bits of the largest magnitude all 24 bits fit."""
    block = np.array(values, np.float32)
    out, exponent, _ = _sum([block], 1)
    kept = np.abs(block) >= 2.0 ** (exponent - 7)
    assert np.array_equal(out[kept], block[kept])


@given(st.lists(blocks, min_size=2, max_size=4).filter(lambda rows: len({len(row) for row in rows}) == 1))
def test_adding_one_s_own_elements_afterwards_makes_no_difference(rows: list[list[float]]) -> None:
    parts = [np.array(row, np.float32) for row in rows]
    whole, exponent, total = _sum(parts, len(parts))
    own = parts[0].copy()
    mine = np.zeros(own.size, np.uint32)
    quantize(own, mine, exponent, len(parts))
    others = (total - mine.view(">i4")).astype(">i4").view(np.uint32)
    dequantize_onto(others, own, own, exponent, len(parts))
    assert own.tobytes() == whole.tobytes()


def test_rounding_is_to_nearest_even() -> None:
    out = np.zeros(6, np.uint32)
    unit = 2.0 ** -scale_exponent(0, 1)
    quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.4], np.float32) * np.float32(unit), out, 0, 1)
    assert out.view(">i4").tolist() == [0, 2, 2, 0, -2, 0]


def test_a_short_block_is_filled_with_zeros() -> None:
    out = np.full(5, 0xEEEEEEEE, np.uint32)
    quantize(np.array([0.5], np.float32), out, 0, 1)
    assert out.view(">i4").tolist() == [2**30, 0, 0, 0, 0]


def test_subnormals_become_small_integers_or_zero() -> None:
    block = np.array([2.0**-149, 2.0**-127, -(2.0**-126)], np.float32)
    out, exponent, total = _sum([block], 1)
    assert exponent == MIN_EXPONENT
    assert total.tolist() == [0, 0, -1]
    assert out.tolist() == [0, 0, -(2.0**-126)]


def test_bfloat16_is_torch_s() -> None:
    torch = pytest.importorskip("torch")
    halves = np.arange(1 << 16, dtype=np.uint16)
    wide = np.zeros(1 << 16, np.uint32)
    widen_bfloat16(halves, wide)
    theirs = torch.from_numpy(halves.view(np.int16)).view(torch.bfloat16).to(torch.float32).numpy()
    finite_ = ~np.isnan(theirs)
    assert np.array_equal(wide.view(np.float32)[finite_], theirs[finite_])
    assert np.isnan(wide.view(np.float32)[~finite_]).all()
    back = np.zeros(1 << 16, np.uint16)
    narrow_bfloat16(wide, back)
    assert np.array_equal(back[finite_], halves[finite_])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_narrowing_to_bfloat16_is_torch_s(bits: list[int]) -> None:
    torch = pytest.importorskip("torch")
    words = np.array([*bits, 0x7F7FFFFF, 0x7F800000, 0xFF800001, 0x3F808000, 0x3F818000, 1], np.uint32)
    out = np.zeros(words.size, np.uint16)
    narrow_bfloat16(words, out)
    theirs = (
        torch.from_numpy(words.view(np.float32).copy())
        .to(torch.bfloat16)
        .view(torch.int16)
        .numpy()
        .view(np.uint16)
    )
    numbers = ~np.isnan(words.view(np.float32))
    assert np.array_equal(out[numbers], theirs[numbers])
    assert ((out[~numbers] & 0x7FFF) > 0x7F80).all()
