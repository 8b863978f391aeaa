"""Calls that come again are prepared, and go the short way: same results, same errors, fewer steps."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

from switchml.errors import (
    CollectiveMismatchError,
    CollectiveTimeoutError,
    UsageError,
    WorkerClosedError,
)
from switchml.worker import Worker, stream
from switchml.worker.prepared import PreparedPlans

Array = np.ndarray[Any, Any]
F32 = np.float32

REDUCTIONS = [
    ("float32", "sum", 5), ("float32", "avg", 1000), ("float32", "sum", 40_000), ("float32", "avg", 40_000),
    ("float16", "sum", 8), ("float16", "avg", 30_000), ("bfloat16", "sum", 8), ("float64", "prod", 7), ("int32", "sum", 3),
    ("int64", "max", 3), ("uint8", "band", 8), ("uint8", "sum", 7), ("bool", "bor", 4), ("complex64", "avg", 6),
]  # fmt: skip
"""dtype, operation, elements a rank's part: with a short way and, some, without."""


def _values(dtype: str, count: int, rank: int) -> Array:
    """Non-finite numbers among them, and NaNs with different bits."""
    rng = np.random.default_rng((rank, count))
    if dtype == "bool":
        return rng.integers(0, 2, count).astype(bool)
    if dtype in ("uint8", "int32", "int64"):
        return rng.integers(0, 100, count).astype(dtype)
    values = rng.standard_normal(count).astype(F32)
    values[1:3] = [np.inf, -np.inf if rank % 2 else 1.0][: values[1:3].size]
    values[:1] = np.array([0x7FC00001 + rank], np.uint32).view(F32)
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def _spread(array: Array) -> Array:
    """The same, not contiguous: it always goes the long way."""
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


def _reduce_all(
    worker: Worker, dtype: str, op: str, count: int, prepare: Callable[[Array], Array]
) -> list[bytes]:
    """Bits of each reduction's results, and the bounds of their errors."""
    named = dtype if dtype == "bfloat16" else None
    size = worker.world_size
    values = _values(dtype, count * size, worker.rank)
    results = []
    for work in (
        worker.allreduce(prepare(values.copy()), op, dtype=named, notify=False),
        worker.reduce(prepare(values.copy()), 1, op, dtype=named, notify=False),
        worker.reduce_scatter(prepare(values.reshape(size, count).copy()), op, dtype=named, notify=False),
    ):
        results += [work.wait().tobytes(), np.float64(work.error_bound()).tobytes()]
    return results


@pytest.mark.parametrize("size", [2, 3])
def test_reductions_give_the_bits_of_the_long_way(transport_worlds: Any, size: int) -> None:
    world = transport_worlds(size)

    def reduce(worker: Worker) -> list[bytes]:
        every = []
        for dtype, op, count in REDUCTIONS:
            long = _reduce_all(worker, dtype, op, count, _spread)
            # The first call of a shape goes the long way, the second prepares it.
            for _ in range(3):
                assert _reduce_all(worker, dtype, op, count, lambda array: array) == long, (dtype, op)
            # Ranks need not go the same way.
            mixed = _spread if worker.rank == 0 else lambda array: array
            assert _reduce_all(worker, dtype, op, count, mixed) == long, (dtype, op)
            every.append(long[0])
        ways = {shape[1:4]: way is not None for shape, way in worker.plans.items() if shape[0] == "allreduce"}
        assert ways[np.dtype("float32"), 5 * size, "sum"]
        assert ways[np.dtype("float32"), 40_000 * size, "avg"]
        assert not ways[np.dtype("float16"), 30_000 * size, "avg"]
        return every

    results = world.run(reduce)
    assert all(result == results[0] for result in results)


def test_what_is_moved_and_met(transport_worlds: Any) -> None:
    world = transport_worlds(3)

    def move(worker: Worker) -> None:
        for turn in range(4):
            for dtype, shape in (
                ("float64", (2, 3)),
                ("uint8", (7,)),
                ("complex128", ()),
                ("int16", (40_000,)),
            ):
                value = 10 * turn + worker.rank
                array = np.full(shape, value, dtype)
                assert worker.broadcast(array, turn % 3, notify=False).wait() is array
                assert (array == 10 * turn + turn % 3).all()
                array[...] = value
                out = np.empty((3, *shape), dtype)
                assert worker.allgather(array, out=out, notify=False).wait() is out
                assert all((out[rank] == 10 * turn + rank).all() for rank in range(3))
                own = out[worker.rank]
                assert (worker.allgather(own, out=out, notify=False).wait() == out).all()
            # Only the root's array takes a result.
            array = np.full(9, worker.rank + 1.0)
            result = worker.reduce(array, 2, notify=False).wait()
            assert result.size == (9 if worker.rank == 2 else 0)
            assert (array == (6 if worker.rank == 2 else worker.rank + 1)).all()
            rows = np.arange(6.0, dtype=F32).reshape(3, 2) * (worker.rank + 1)
            mine = rows[worker.rank]
            assert worker.reduce_scatter(rows, out=mine, notify=False).wait() is mine
            assert mine.tolist() == [12.0 * worker.rank, 12.0 * worker.rank + 6]
            assert worker.barrier(notify=False).wait().size == 0

    world.run(move)


def test_many_under_way_have_memory_of_their_own(transport_worlds: Any) -> None:
    world = transport_worlds(2)

    def reduce(worker: Worker) -> None:
        for notify in (True, False):
            arrays = [np.full(100 if index % 3 else 30_000, index + worker.rank, F32) for index in range(60)]
            works = [worker.allreduce(array, notify=notify) for array in arrays]
            for index in np.random.default_rng(worker.rank).permutation(60):
                assert works[index].wait() is arrays[index]
                assert (arrays[index] == 2 * index + 1).all()

    world.run(reduce)


def test_what_is_exchanged_exactly_leaves_no_mark(worlds: Any) -> None:
    world = worlds(2)

    def reduce(worker: Worker) -> None:
        for turn in range(5):
            array = np.full(50_000, 1.0 + worker.rank, F32)
            if turn == 3:
                array[12_345] = np.inf
            before = worker.counters()["blocks_exact"]
            worker.allreduce(array, notify=False).wait()
            assert (np.delete(array, 12_345) == 3).all()
            assert array[12_345] == (np.inf if turn == 3 else 3)
            assert worker.counters()["blocks_exact"] == before + (turn == 3)

    world.run(reduce)


def _python_calls(call: Callable[[], object]) -> int:
    """How many Python functions a call runs, itself not counted, on this thread: fewest of several."""
    counts = []
    for _ in range(20):
        count = -1

        def note(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal count
            count += event == "call"

        sys.setprofile(note)
        try:
            call()
        finally:
            sys.setprofile(None)
        counts.append(count)
    return min(counts)


def test_a_small_collective_takes_few_steps(worlds: Any) -> None:
    """Most of the time of one is Python's."""
    world = worlds(2)

    def count(worker: Worker) -> dict[str, int]:
        array, every, row = np.ones(1024, F32), np.empty((2, 1024), F32), np.empty(512, F32)
        rows = array.reshape(2, -1)
        calls: dict[str, Callable[[], object]] = {
            "allreduce": lambda: worker.allreduce(array, notify=False).wait(),
            "broadcast": lambda: worker.broadcast(array, notify=False).wait(),
            "allgather": lambda: worker.allgather(array, out=every, notify=False).wait(),
            "reduce": lambda: worker.reduce(array, notify=False).wait(),
            "reduce_scatter": lambda: worker.reduce_scatter(rows, out=row, notify=False).wait(),
            "barrier": lambda: worker.barrier(notify=False).wait(),
        }
        for call in calls.values():
            call()
            call()
        return {name: _python_calls(call) for name, call in calls.items()}

    for counts in world.run(count):
        assert {name: n for name, n in counts.items() if n > 28} == {}


def _prepared(worker: Worker, *counts: int) -> None:
    for count in counts:
        for _ in range(3):
            worker.allreduce(np.ones(count, F32), notify=False).wait()


@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_ranks_that_differ_hear_of_it(worlds: Any, transport: str) -> None:
    world = worlds(2, transport=transport)

    def differ(worker: Worker) -> None:
        _prepared(worker, 10, 20)
        worker.allreduce(np.ones(10 + 10 * worker.rank, F32), notify=False).wait()

    for error in world.attempt(differ):
        assert isinstance(error, CollectiveMismatchError)
        assert "allreduce(10 x float32, sum; call 6" in str(error)
        assert "allreduce(20 x float32, sum; call 6" in str(error)


def test_a_rank_that_does_not_come_is_named_in_time(worlds: Any) -> None:
    world = worlds(2)
    met = threading.Barrier(2)

    def wait(worker: Worker) -> None:
        _prepared(worker, 10)
        if worker.rank == 0:
            work = worker.allreduce(np.ones(10, F32), timeout=0.5, notify=False)
            with pytest.raises(CollectiveTimeoutError, match=r"still in flight after 0\.05 s"):
                work.wait(0.05)
            assert not work.done()
            assert "allreduce of 10 x float32" in repr(work)
            with pytest.raises(CollectiveTimeoutError, match="has not seen it from rank 1"):
                work.wait()
            with pytest.raises(CollectiveTimeoutError):
                worker.allreduce(np.ones(10, F32))
        met.wait(20)

    world.run(wait)


def test_leaving_ends_what_is_under_way(worlds: Any) -> None:
    world = worlds(2)
    met = threading.Barrier(2)

    def leave(worker: Worker) -> None:
        _prepared(worker, 10)
        if worker.rank == 0:
            work = worker.allreduce(np.ones(10, F32), notify=False)
            later = threading.Timer(0.2, worker.leave)
            later.start()
            with pytest.raises(WorkerClosedError):
                work.wait()
            later.join()
        met.wait(20)

    world.run(leave)


@pytest.mark.parametrize(
    ("transport", "step"), [("memory", "run_in_memory"), ("shm", "enter"), ("shm", "run"), ("shm", "leave")]
)
def test_ctrl_c_takes_nothing_from_the_others(
    worlds: Any, transport: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits next goes on where the interrupt has come, before or after what the step does."""
    world = worlds(2, transport=transport)
    caller = threading.local()

    def interrupted(done: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: int) -> int:
            when = getattr(caller, "when", None)
            caller.when = None
            if when == "before":
                raise KeyboardInterrupt
            result = done(*arguments)
            if when == "after":
                raise KeyboardInterrupt
            return result

        return call

    monkeypatch.setattr(stream, step, interrupted(getattr(stream, step)))

    def reduce(worker: Worker) -> None:
        _prepared(worker, 10, 40_000)
        for when in ("before", "after"):
            for count in (10, 40_000):
                array = np.full(count, worker.rank + 1.0, F32)
                work = worker.allreduce(array, notify=False)
                if worker.rank == 1:
                    caller.when = when
                    with pytest.raises(KeyboardInterrupt):
                        work.wait()
                assert (work.wait() == 3).all()
        assert worker.barrier(notify=False).wait().size == 0

    world.run(reduce)


def test_bad_input_is_told_as_ever(worlds: Any) -> None:
    world = worlds(2)

    def call(worker: Worker) -> None:
        _prepared(worker, 10)
        read_only = np.ones(10, F32)
        read_only.flags.writeable = False
        array = np.ones(10, F32)
        for refused, text in (
            (lambda: worker.allreduce(read_only), "read-only"),
            (lambda: worker.allreduce(array, out=np.ones(11, F32)), "out has shape"),
            (lambda: worker.allreduce(array, out=np.ones(10)), "out has shape"),
            (lambda: worker.allreduce(array, "median"), "is none of"),
            (lambda: worker.allreduce(array, "band"), "not defined"),
            (lambda: worker.reduce(array, 2), "no rank"),
            (lambda: worker.broadcast(array, -1), "no rank"),
            (lambda: worker.reduce_scatter(array), "needs a row for each"),
            (lambda: worker.allgather(array, out=np.ones(20, F32)), "out must be"),
        ):
            for _ in range(3):
                with pytest.raises(UsageError, match=text):
                    refused()
        assert (worker.allreduce(array, out=np.empty(10, F32)).wait() == 2).all()
        assert (array == 1).all()

    world.run(call)


def test_only_so_many_shapes_are_kept(worlds: Any) -> None:
    world = worlds(2)

    def reduce(worker: Worker) -> None:
        for count in range(1, 301):
            for _ in range(2):
                assert (worker.allreduce(np.ones(count, F32), notify=False).wait() == 2).all()
        assert isinstance(worker.plans, PreparedPlans)
        assert 0 < len(worker.plans) <= 256

    world.run(reduce)
