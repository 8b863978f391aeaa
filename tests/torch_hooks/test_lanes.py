"""Lanes hold every sum, rounding is unbiased, and feedback keeps errors from adding up."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is in the extra `torch`")

from switchml.errors import UsageError
from switchml.protocol.numerics import EXACT_EXPONENT
from switchml.torch_backend.hooks.lanes import BLOCK, WIRES
from switchml.torch_backend.hooks.packed import PackedBucket

wires = st.sampled_from(sorted(WIRES))


def _averages(
    buckets: list[PackedBucket], gradients: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What a switch would make of it: averages, the exponents that were agreed on, and the words that were sent."""
    agreed = np.max(
        [bucket.exponents(gradient) for bucket, gradient in zip(buckets, gradients, strict=True)], axis=0
    )
    exact = [bucket.exact(agreed) for bucket in buckets]
    words = [bucket.pack(agreed) for bucket in buckets]
    results = []
    with np.errstate(all="ignore"):
        mean = sum(exact[1:], exact[0]) / np.float32(len(exact))
        for bucket in buckets:
            total = np.zeros_like(words[0])
            for one in words:
                total += one  # wraps around, as on the switch
            out = np.full(gradients[0].size, 7, np.float32)
            bucket.unpack(total, agreed, mean if mean.size else None, out)
            results.append(out)
    assert all(result.tobytes() == results[0].tobytes() for result in results)
    return results[0], agreed, words


def _buckets(wire: str, count: int, workers: int, feedback: bool = True) -> list[PackedBucket]:
    return [PackedBucket(WIRES[wire], count, workers, [5, rank], feedback) for rank in range(workers)]


def _steps(wire: str, agreed: np.ndarray, count: int, workers: int) -> np.ndarray:
    """The step of every element."""
    steps = np.array([WIRES[wire].step(int(exponent), workers) for exponent in agreed])
    return np.repeat(steps, BLOCK)[:count]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 16, 64, 127])
def test_a_lane_holds_the_sum_of_the_largest(wire: str, workers: int) -> None:
    """All workers at the limit, signs alternating over the lanes: every borrow there can be."""
    largest = np.float32(np.nextafter(np.float32(2.0), np.float32(0.0)))
    signs = np.array([1, -1, 1, 1, -1, -1, -1, 1, 1, -1], np.float32)
    gradient = np.resize(signs, 2 * BLOCK + 3) * largest
    out, agreed, _ = _averages(_buckets(wire, gradient.size, workers), [gradient] * workers)
    assert (np.abs(out - gradient) <= _steps(wire, agreed, gradient.size, workers)).all()
    assert (np.sign(out) == np.sign(gradient)).all()


@given(wires, st.integers(1, 9), st.integers(1, 700), st.integers(0, 10**6), st.integers(-80, 80))
def test_an_average_is_off_by_less_than_a_step(
    wire: str, workers: int, count: int, seed: int, power: int
) -> None:
    random = np.random.default_rng(seed)
    gradients = [(random.standard_normal(count) * 2.0**power).astype(np.float32) for _ in range(workers)]
    out, agreed, _ = _averages(_buckets(wire, count, workers), gradients)
    exact = np.mean(np.array(gradients, np.float64), axis=0)
    assert (np.abs(out - exact) <= _steps(wire, agreed, count, workers) * (1 + 1e-6)).all()


@pytest.mark.parametrize("wire", WIRES)
def test_rounding_is_unbiased(wire: str) -> None:
    """The mean over many roundings of one value goes to the value: within 6 standard errors."""
    workers, times = 2, 4096
    random = np.random.default_rng(3)
    value = random.uniform(-1, 1, BLOCK).astype(np.float32)
    value[0] = 0.99  # keeps the exponent at 0 in every block
    gradient = np.tile(value, times)
    out, agreed, _ = _averages(_buckets(wire, gradient.size, workers, feedback=False), [gradient] * workers)
    assert (agreed == 0).all()
    step = WIRES[wire].step(0, workers)
    error = out.reshape(times, BLOCK).astype(np.float64).mean(axis=0) - value
    assert np.abs(error).max() <= 6 * step / 2 / np.sqrt(workers * times)
    assert np.abs(out.reshape(times, BLOCK)[0] - value).max() > 0.2 * step  # single ones are not exact


@pytest.mark.parametrize("wire", WIRES)
def test_with_feedback_errors_do_not_add_up(wire: str) -> None:
    workers, count, steps = 4, 600, 300
    random = np.random.default_rng(4)
    gradients = [random.standard_normal(count).astype(np.float32) for _ in range(workers)]
    exact = np.mean(np.array(gradients, np.float64), axis=0)
    worst = {}
    for feedback in (True, False):
        buckets = _buckets(wire, count, workers, feedback)
        total, largest = np.zeros(count), 0.0
        for _ in range(steps):
            out, agreed, _ = _averages(buckets, gradients)
            total += out
            largest = max(largest, float(_steps(wire, agreed, count, workers).max()))
        worst[feedback] = np.abs(total - steps * exact).max() / largest
    assert worst[True] <= 1.01
    assert worst[False] > 3


@pytest.mark.parametrize("wire", WIRES)
def test_descent_on_a_quadratic_reaches_the_minimum(wire: str) -> None:
    """Ranks with different minima: the average gradient vanishes where no rank's own does."""
    workers, count = 4, 300
    random = np.random.default_rng(6)
    minima = [random.standard_normal(count).astype(np.float32) for _ in range(workers)]
    buckets = _buckets(wire, count, workers)
    place = np.zeros(count, np.float32)
    for turn in range(400):
        out, _, _ = _averages(buckets, [place - minimum for minimum in minima])
        place -= np.float32(0.2 / (1 + turn / 20)) * out
    assert np.abs(place - np.mean(minima, axis=0)).max() <= 0.02


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("strange", [np.inf, -np.inf, np.nan, 1.5e38])
def test_what_does_not_fit_goes_exactly_and_leaves_no_trace(wire: str, strange: float) -> None:
    workers, count = 3, 2 * BLOCK + 50
    random = np.random.default_rng(7)
    gradients = [random.standard_normal(count).astype(np.float32) for _ in range(workers)]
    clean = gradients[1].copy()
    gradients[1][BLOCK + 5] = strange
    buckets = _buckets(wire, count, workers)
    out, agreed, _ = _averages(buckets, gradients)
    assert agreed[1] == EXACT_EXPONENT
    assert (np.delete(agreed, 1) != EXACT_EXPONENT).all()
    with np.errstate(all="ignore"):
        exact = sum(gradients[1:], gradients[0]) / np.float32(workers)
    np.testing.assert_array_equal(out[BLOCK : 2 * BLOCK], exact[BLOCK : 2 * BLOCK])
    assert np.isfinite(np.delete(out, BLOCK + 5)).all()
    assert all(np.isfinite(bucket.residual).all() for bucket in buckets)
    gradients[1] = clean
    out, agreed, _ = _averages(buckets, gradients)
    mean = np.mean(np.array(gradients, np.float64), axis=0)
    assert (np.abs(out - mean) <= 2 * _steps(wire, agreed, count, workers)).all()


def test_the_words_are_a_half_and_a_quarter() -> None:
    gradient = np.ones(4096, np.float32)
    for wire, share in (("float16", 2), ("int8", 4)):
        _, _, words = _averages(_buckets(wire, gradient.size, 2), [gradient] * 2)
        assert words[0].nbytes * share == gradient.nbytes


@pytest.mark.parametrize("wire", WIRES)
def test_zeros_stay_zeros(wire: str) -> None:
    gradient = np.zeros(300, np.float32)
    out, _, _ = _averages(_buckets(wire, 300, 3), [gradient] * 3)
    assert not out.any()


def test_too_many_workers_for_a_lane_are_refused() -> None:
    assert WIRES["int8"].limit(127) == 1
    with pytest.raises(UsageError, match="at most 127"):
        WIRES["int8"].limit(128)
    assert WIRES["float16"].limit(256) > 100


_DIGEST = """
import hashlib, warnings
import numpy as np
warnings.simplefilter("error")
from switchml.torch_backend.hooks.lanes import WIRES
from switchml.torch_backend.hooks.packed import PackedBucket
digest = hashlib.sha256()
for name, wire in sorted(WIRES.items()):
    bucket = PackedBucket(wire, 700, 3, [1, 2], True)
    for step in range(3):
        gradient = np.random.default_rng(step).standard_normal(700).astype(np.float32)
        gradient[300] = np.inf if step == 1 else 0
        agreed = bucket.exponents(gradient)
        words = bucket.pack(agreed)
        out = np.empty(700, np.float32)
        digest.update(words.tobytes())
        bucket.unpack(words, agreed, None, out)
        digest.update(agreed.tobytes() + out.tobytes() + bucket.residual.tobytes())
print(digest.hexdigest())
"""


def test_plain_python_gives_the_same_bits() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-P", "-c", _DIGEST],
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disabled in "01"
    }
    assert len(digests) == 1
