"""Block floating point: exponents, headroom and the error bound. The kernels themselves: tests/worker/test_kernels.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.protocol.numerics import (
    EXACT_EXPONENT,
    MIN_EXPONENT,
    error_bound,
    exponent_of_magnitude,
    headroom,
    scale_exponent,
)

exponents = st.integers(MIN_EXPONENT, EXACT_EXPONENT - 1)
workers_ = st.integers(1, 256)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@given(workers_)
def test_headroom_is_the_logarithm_rounded_up(workers: int) -> None:
    assert headroom(workers) == math.ceil(math.log2(workers)) + (workers == 256)


@given(st.floats(2.0**-96, 2.0**126, width=32, exclude_max=True))
def test_exponent_bounds_the_magnitude_tightly(value: float) -> None:
    exponent = exponent_of_magnitude(_bits(value))
    assert 2.0 ** (exponent - 1) <= value < 2.0**exponent


@pytest.mark.parametrize(
    ("value", "exponent"),
    [
        (0.0, MIN_EXPONENT),
        (2.0**-149, MIN_EXPONENT),
        (2.0**-97, MIN_EXPONENT),
        (2.0**-96, MIN_EXPONENT),
        (2.0**-95, MIN_EXPONENT + 1),
        (0.5, 0),
        (1.0, 1),
        (2.0**125 * 1.99, 126),
        (2.0**126, EXACT_EXPONENT),
        (3.4e38, EXACT_EXPONENT),
        (math.inf, EXACT_EXPONENT),
        (math.nan, EXACT_EXPONENT),
    ],
)
def test_exponents_by_hand(value: float, exponent: int) -> None:
    assert exponent_of_magnitude(_bits(value)) == exponent


@given(exponents, workers_)
def test_the_scale_and_its_inverse_are_normal_float32(exponent: int, workers: int) -> None:
    assert -126 <= scale_exponent(exponent, workers) <= 126


@given(exponents, workers_)
def test_no_sum_of_extreme_values_overflows(exponent: int, workers: int) -> None:
    largest = float(np.nextafter(np.float32(2.0**exponent), np.float32(0)))
    word = round(largest * 2.0 ** scale_exponent(exponent, workers))
    assert workers * word <= 2**31 - 1


def test_nor_for_any_number_of_workers() -> None:
    """From 129 workers on the largest float32 below 2^e is rounded up, to a power of two."""
    largest = np.nextafter(np.float32(1), np.float32(0))
    words = [
        int(np.rint(largest * np.float32(2.0 ** scale_exponent(0, workers)))) for workers in range(1, 257)
    ]
    assert [workers for workers, word in enumerate(words, 1) if workers * word > 2**31 - 1] == []


@given(exponents, workers_)
def test_scaling_by_a_power_of_two_is_exact(exponent: int, workers: int) -> None:
    block = np.float32(2.0**exponent) * np.linspace(0.5, 0.99, 50, dtype=np.float32)
    scaled = block * np.float32(2.0 ** scale_exponent(exponent, workers))
    assert np.array_equal(
        scaled.astype(np.float64), block.astype(np.float64) * 2.0 ** scale_exponent(exponent, workers)
    )


@given(exponents, workers_)
def test_error_bound_is_half_a_unit_a_worker(exponent: int, workers: int) -> None:
    assert error_bound(exponent, workers) == workers * 0.5 / 2.0 ** (31 - exponent - headroom(workers))


def test_error_bound_by_hand() -> None:
    assert error_bound(1, 1) == 2.0**-31
    assert error_bound(1, 2) == 2 * 2.0**-30
    assert error_bound(-95, 8) == 8 / 2 * 2.0**-123
