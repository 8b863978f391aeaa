"""What ranks tell each other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_in_threads import on_ranks

from switchml import variables
from switchml.errors import CollectiveMismatchError, SwitchUnreachableError, UsageError
from switchml.learn import group as learn_group
from switchml.learn import over
from switchml.learn.group import ALONE, BLOCK, current
from switchml.worker import Worker


@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.floats(-200, 200))
@settings(max_examples=20, deadline=None)
def test_large_sums_are_as_near_as_promised_and_alike_on_all_ranks(
    size: int, seed: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    count = 2 * BLOCK + 3
    rows = random.standard_normal((size, count)) * 10.0 ** (scale + random.integers(-9, 9, count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn_group, "GATHERED_BYTES", 0)
        sums = on_ranks(size, lambda rank: current().total(rows[rank], b"same"))
    assert len({each.tobytes() for each in sums}) == 1
    bits = 30 - (size - 1).bit_length()
    for start in range(0, count, BLOCK):
        block = rows[:, start : start + BLOCK]
        unit = np.ldexp(1.0, int(np.frexp(np.abs(block).max())[1]) - 2 * bits)
        bound = size / 2 * unit + 4 * np.finfo(float).eps * np.abs(block).sum(0)
        assert (np.abs(sums[0][start : start + BLOCK] - block.sum(0)) <= bound).all()


def test_large_sums_of_zeros_and_of_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_group, "GATHERED_BYTES", 0)
    rows = np.zeros((3, 3 * BLOCK))
    rows[1, 5], rows[2, BLOCK + 1] = np.inf, 2.5
    for total in on_ranks(3, lambda rank: current().total(rows[rank])):
        assert np.isnan(total[:BLOCK]).all()
        np.testing.assert_array_equal(total[BLOCK:], rows[:, BLOCK:].sum(0))


def test_ranks_without_anything_do_not_blur_the_small_numbers_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learn_group, "GATHERED_BYTES", 0)
    rows = np.zeros((2, BLOCK))
    rows[1] = 1e-20 * np.arange(1, BLOCK + 1)
    for total in on_ranks(2, lambda rank: current().total(rows[rank])):
        np.testing.assert_allclose(total, rows[1], rtol=1e-13)


def test_small_sums_are_those_of_float64_in_the_order_of_ranks() -> None:
    rows = np.random.default_rng(1).standard_normal((3, 100))
    for total in on_ranks(3, lambda rank: current().total(rows[rank])):
        np.testing.assert_array_equal(total, rows[0] + rows[1] + rows[2])


@pytest.mark.parametrize("gathered", [0, 1 << 20])
def test_ranks_that_have_come_apart_are_told(gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_group, "GATHERED_BYTES", gathered)
    for error in on_ranks(3, lambda rank: current().total(np.ones(5), b"left" if rank == 1 else b"right")):
        assert isinstance(error, CollectiveMismatchError)
        assert "do not fit the same model" in str(error)


def test_arrays_of_any_shape_and_dtype_are_gathered() -> None:
    given = [np.array(["a", "bcd"]), np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.int8)]
    for found in on_ranks(3, lambda rank: current().gather(given[rank])):
        assert [each.dtype for each in found] == [each.dtype for each in given]
        for one, other in zip(found, given, strict=True):
            np.testing.assert_array_equal(one, other)
    for found in on_ranks(2, lambda rank: current().of_first(np.arange(3) + rank)):
        np.testing.assert_array_equal(found, [0, 1, 2])


def test_ranks_on_the_same_cores_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(13)))
    assert on_ranks(3, lambda rank: current().threads()) == [4, 4, 4]


def test_a_process_that_no_launcher_started_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert current() is ALONE
    with over(None):
        monkeypatch.setenv("RANK", "0")
        assert current() is ALONE
    with pytest.raises(UsageError, match="RANK is set and WORLD_SIZE is not"):
        current()


def test_the_configuration_file_names_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def join(switch: str, *, window: int, **_: object) -> None:
        raise SwitchUnreachableError(f"{switch} {window}")

    (tmp_path / "switchml.toml").write_text('switch = "there:1"\nwindow = 64\n')
    monkeypatch.setattr(variables, "_configured", False)
    monkeypatch.setattr(os, "environ", {"XDG_CONFIG_HOME": str(tmp_path), "RANK": "0", "WORLD_SIZE": "2"})
    monkeypatch.setattr(Worker, "join", join)
    with pytest.raises(SwitchUnreachableError, match="there:1 64"):
        current()
