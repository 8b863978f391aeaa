"""Sizes, rates, limits and medians: the benchmark's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchml.bench import limits
from switchml.bench.results import Spread, interleaved, paired_ratio
from switchml.bench.units import (
    parse_counts,
    parse_names,
    parse_parameters,
    parse_rate,
    parse_size,
    parse_sizes,
    parse_time,
    show_rate,
    show_size,
)
from switchml.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("4K", 4096), ("64k", 65536), ("1.5M", 1572864), ("2GiB", 1 << 31), ("7B", 7)],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("500 us", 0.0005), ("0.5S", 0.5)])
def test_times_have_a_unit(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)
    for wrong in (text.rstrip("msuS "), "0ms", "-" + text, "1m"):
        with pytest.raises(UsageError):
            parse_time(wrong)


@given(st.integers(1, 1 << 40))
def test_a_shown_size_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("64K:64M:4", [2**n for n in range(16, 27, 2)]),
        ("4K:16K", [4096, 8192, 16384]),
        ("4K:20K:4", [4096, 16384]),
        ("1M,4K", [1 << 20, 4096]),
        ("16M", [1 << 24]),
    ],
)
def test_ranges_include_their_end_and_lists_keep_their_order(text: str, sizes: list[int]) -> None:
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    "text", ["", "x", "4K:1K:2", "4K:8K:1", "4K:8K:x", "1:2:3:4", "0", "-4", "4K,", "4T"]
)
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("1gbit", 10**9), ("100Mbit", 10**8), ("10G", 10**10), ("2.5gbit/s", 2_500_000_000)]
)
def test_rates_are_powers_of_1000(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0", "1gbyte"])
def test_bad_rates_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)


def test_rates_are_shown_with_their_unit() -> None:
    assert [show_rate(rate) for rate in (10**9, 25 * 10**8, 10**8, 64_000)] == [
        "1 Gbit/s",
        "2.5 Gbit/s",
        "100 Mbit/s",
        "64 kbit/s",
    ]


def test_counts_and_names() -> None:
    assert parse_counts("2,4,8") == [2, 4, 8]
    assert parse_names("gloo, mpi-shm") == ["gloo", "mpi-shm"]
    assert parse_names("none") == []
    for text in ("2,x", "0", ""):
        with pytest.raises(UsageError):
            parse_counts(text)


def test_goodput_is_93_percent_of_the_wire_at_1024_bytes() -> None:
    assert limits.goodput_limit(8_000, 1024) == pytest.approx(1000 * 1024 / 1100)
    assert limits.goodput_limit(10**9, 1024, limits.SHAPED) == pytest.approx(125e6 * 1024 / 1076)


def test_a_ring_of_two_needs_the_whole_tensor_once_and_of_many_nearly_twice() -> None:
    goodput = limits.tcp_goodput_limit(10**9)
    assert limits.ring_limit(10**9, 2) == pytest.approx(goodput)
    assert limits.ring_limit(10**9, 4) == pytest.approx(goodput / 1.5)
    assert limits.ring_limit(10**9, 1000) == pytest.approx(goodput / 2, rel=0.01)
    assert limits.ring_limit(10**9, 1) == float("inf")


def test_a_spread_holds_median_and_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_ratios_pair_rounds_and_do_not_divide_medians() -> None:
    # Both sides slow down together in the second round: the pairs do not see it.
    assert paired_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.0)
    assert paired_ratio([1.0, 9.0, 10.0], [1.0, 3.0, 20.0]).median == 1.0
    with pytest.raises(ValueError, match="argument 2"):
        paired_ratio([1.0], [1.0, 2.0])


def test_parameters_count_in_thousands() -> None:
    assert parse_parameters("25M") == 25_000_000
    assert parse_parameters("500k") == 500_000
    for text in ("many", "25MB", "-1"):
        with pytest.raises(UsageError):
            parse_parameters(text)


def test_the_order_rotates_from_round_to_round() -> None:
    assert list(interleaved("abc", 2)) == [(1, "a"), (1, "b"), (1, "c"), (2, "b"), (2, "c"), (2, "a")]
    assert [item for _, item in interleaved((False, True), 3)] == [False, True, True, False, False, True]
