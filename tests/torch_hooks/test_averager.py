"""Buckets in flight: every rank gets the same bits, in whatever order and at whatever pace they come."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is in the extra `torch`")

import numpy as np
import torch

from switchml.errors import UsageError
from switchml.torch_backend.hooks.rounded import RoundedBucket
from switchml.torch_backend.hooks.state import SwitchState
from switchml.torch_backend.options import Options

WIRES = ["float32", "int16", "int8"]
COUNTS = [1000, 3, 257, 5000]


def gradient(rank: int, bucket: int, step: int, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(1000 * rank + 10 * bucket + step)
    return torch.randn(COUNTS[bucket], generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wire", WIRES)
def test_all_ranks_get_the_same_bits_near_the_average(ranks: Any, wire: str, dtype: Any) -> None:
    def body(averager: Any, rank: int) -> list[Any]:
        found = []
        for step in range(2):
            futures = []
            for bucket in range(len(COUNTS)):
                time.sleep(0.002 * rank)  # ranks come to their buckets at different times
                futures.append(averager.average(bucket, (), gradient(rank, bucket, step, dtype)))
            found += [future.wait() for future in futures]
        return found

    results = ranks.run(3, wire, body)
    for number, averages in enumerate(zip(*results, strict=True)):
        step, bucket = divmod(number, len(COUNTS))
        assert all(torch.equal(averages[0], other) for other in averages)
        assert averages[0].dtype == dtype
        exact = sum(gradient(rank, bucket, step, dtype).double() for rank in range(3)) / 3
        room = 0.01 if dtype is torch.bfloat16 else 1e-6
        assert (averages[0].double() - exact).abs().max() <= room * 4


def test_a_bucket_keeps_what_rounding_took() -> None:
    bucket = RoundedBucket(3, [0, 1, 2], True)
    gradient = np.array([1, 2, 3], np.float32)
    values, first = bucket.next_step(gradient)
    assert np.array_equal(values, gradient)
    assert first.feedback
    values[...] = 0.25  # as the sum leaves it
    values, second = bucket.next_step(gradient)
    assert values.tolist() == [1.25, 2.25, 3.25]
    assert first.seed != second.seed


def test_without_feedback_nothing_is_kept() -> None:
    bucket = RoundedBucket(3, [0, 1, 2], False)
    gradient = np.ones(3, np.float32)
    values, rounding = bucket.next_step(gradient)
    assert values is gradient
    assert not rounding.feedback


def test_the_rounding_repeats_and_differs_over_seed_rank_and_bucket() -> None:
    keys = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    seeds = [RoundedBucket(1, key, True).next_step(np.ones(1, np.float32))[1].seed for key in keys]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 4


def test_what_is_kept_belongs_to_a_layout(ranks: Any) -> None:
    """DDP lays out its buckets anew after the first step; the same index is another bucket then."""

    def body(averager: Any, rank: int) -> list[bool]:
        kept = []
        for layout in ("first", "first", "second"):
            averager.average(0, layout, gradient(rank, 0, 0)).wait()
            kept.append(averager._buckets[0][1])
        return [kept[0] is kept[1], kept[1] is kept[2]]

    assert ranks.run(2, "int16", body) == [[True, False]] * 2


@pytest.mark.parametrize("wire", WIRES)
def test_an_error_comes_out_of_the_future(ranks: Any, wire: str) -> None:
    """Ranks with buckets of different sizes."""

    def body(averager: Any, rank: int) -> str:
        future = averager.average(0, (), torch.ones(1000 + 1000 * rank))
        try:
            future.wait()
        except RuntimeError as error:
            return str(error)
        return ""

    assert all("ranks disagree" in said for said in ranks.run(2, wire, body))


def test_closing_ends_the_threads(ranks: Any) -> None:
    def body(averager: Any, rank: int) -> None:
        averager.average(0, (), torch.ones(1000)).wait()
        averager.close()
        averager.close()

    ranks.run(2, "int8", body)
    deadline = time.monotonic() + 10
    while any(thread.name == "switchml-hook" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_state_says_what_it_cannot_use() -> None:
    with pytest.raises(UsageError, match="float32, int16, int8"):
        SwitchState(wire="int4")
    with pytest.raises(UsageError, match="init_process_group"):
        SwitchState(options=Options(switch="nowhere:1")).averager()
    assert SwitchState().counters() == {}
    SwitchState().close()


@pytest.mark.parametrize("wire", WIRES)
def test_backward_goes_on_while_buckets_are_in_flight(ranks: Any, wire: str) -> None:
    """Rank 0 has given all its buckets before rank 1 begins. The first step joins the jobs, which takes both."""
    given = threading.Event()

    def body(averager: Any, rank: int) -> list[Any]:
        averager.average(len(COUNTS), (), torch.ones(1)).wait()
        if rank == 1:
            assert given.wait(20)
        futures = [averager.average(bucket, (), gradient(rank, bucket, 0)) for bucket in range(len(COUNTS))]
        if rank == 0:
            assert not any(future.done() for future in futures)
            given.set()
        return [future.wait() for future in futures]

    for mine, other in zip(*ranks.run(2, wire, body), strict=True):
        assert torch.equal(mine, other)
