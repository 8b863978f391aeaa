"""Every collective over a real emulator and real transports, against numpy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from switchml.errors import CollectiveTimeoutError, UsageError
from switchml.switch_emulator import Emulator
from switchml.worker import Work, Worker

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
COUNTS = [1, 300, 20_000]
OTHER = {
    "sum": np.add, "prod": np.multiply, "min": np.minimum, "max": np.maximum, "band": np.bitwise_and, "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}  # fmt: skip


def _values(rank: int, count: int, dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng((seed, rank, count))
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.integers(0, 2, count).astype(bool)
    if kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, count, dtype, endpoint=True)
    values = rng.standard_normal(count) * 10.0 ** rng.integers(-3, 3, count)
    return (values + 1j * rng.standard_normal(count) if kind == "c" else values).astype(dtype)


def _alike(results: list[Any]) -> np.ndarray:
    """The results of all ranks are the same bits."""
    assert {result.tobytes() for result in results} == {results[0].tobytes()}
    first: np.ndarray = results[0]
    return first


def _close(result: np.ndarray, inputs: list[np.ndarray], bound: float, divisor: int = 1) -> None:
    rows = np.array(inputs, np.float64)
    exact = rows.sum(axis=0) / divisor
    rounding = (
        np.finfo(result.dtype).eps * np.abs(rows).sum(axis=0) + np.finfo(result.dtype).smallest_subnormal
    )
    assert (np.abs(result.astype(np.float64) - exact) <= bound + len(inputs) * rounding).all()


@pytest.mark.parametrize("size", [2, 3])
def test_reductions_by_every_transport(transport_worlds: Any, size: int) -> None:
    world = transport_worlds(size)
    for count in COUNTS:
        for dtype in ("float32", "float16", "int32", "uint8", "float64"):
            inputs = [_values(rank, count, dtype) for rank in range(size)]

            def reduce(worker: Worker, inputs: list[np.ndarray] = inputs) -> tuple[np.ndarray, float]:
                work = worker.allreduce(inputs[worker.rank].copy())
                return work.wait(), work.error_bound()

            results = world.run(reduce)
            result = _alike([values for values, _ in results])
            if np.dtype(dtype).kind == "f" and dtype != "float64":
                _close(result, inputs, results[0][1])
            else:
                total = inputs[0].copy()
                for values in inputs[1:]:
                    total += values
                assert np.array_equal(result, total)
    for worker in world.workers:
        counters = worker.counters()
        more = counters["retransmissions"] + counters["packets_asked_for"]
        assert counters["packets_sent"] == counters["chunks_completed"] + more
        # Other ranks' probes come by multicast, too.
        assert counters["dropped_foreign"] <= (size * 10 if worker.multicast else 0)
        assert counters["dropped_truncated"] == 0


@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_every_dtype_and_operation(worlds: Any, transport: str) -> None:
    world = worlds(2, transport=transport)
    for dtype in [*INTEGERS, "bool", "float16", "float32", "float64", "complex64", "complex128"]:
        for op, ufunc in OTHER.items():
            floating, kind = np.dtype(dtype).kind in "fc", np.dtype(dtype).kind
            if (floating and op in ("band", "bor", "bxor")) or (kind == "c" and op in ("min", "max")):
                with pytest.raises(UsageError):
                    world.workers[0].allreduce(np.zeros(1, dtype), op)
                continue
            inputs = [_values(rank, 77, dtype) for rank in range(2)]
            results = world.run(
                lambda worker, v=inputs, op=op: worker.allreduce(v[worker.rank].copy(), op).wait()
            )
            with np.errstate(all="ignore"):
                assert _alike(results).tobytes() == ufunc(*inputs).tobytes(), f"{dtype} {op}"


@pytest.mark.parametrize("count", [50, 30_000])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_average(worlds: Any, dtype: str, count: int) -> None:
    world = worlds(3)
    inputs = [_values(rank, count, dtype) for rank in range(3)]

    def average(worker: Worker) -> tuple[np.ndarray, float]:
        work = worker.allreduce(inputs[worker.rank].copy(), "avg")
        return work.wait(), work.error_bound()

    results = world.run(average)
    _close(_alike([values for values, _ in results]), inputs, results[0][1], 3)


def test_bfloat16(worlds: Any) -> None:
    torch = pytest.importorskip("torch")
    world = worlds(2)
    for count in (10, 50_000):
        wide = [torch.from_numpy(_values(rank, count, "float32")).to(torch.bfloat16) for rank in range(2)]
        inputs = [values.view(torch.int16).numpy().view(np.uint16) for values in wide]

        def reduce(worker: Worker, inputs: list[np.ndarray] = inputs) -> tuple[np.ndarray, float]:
            work = worker.allreduce(inputs[worker.rank].copy(), dtype="bfloat16")
            return work.wait(), work.error_bound()

        results = world.run(reduce)
        result = torch.from_numpy(_alike([values for values, _ in results]).view(np.int16)).view(
            torch.bfloat16
        )
        exact = wide[0].double() + wide[1].double()
        assert ((result.double() - exact).abs() <= results[0][1] + exact.abs() * 2.0**-8).all()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_other_world_sizes(worlds: Any, workers: int, transport: str) -> None:
    world = worlds(workers, transport=transport)
    inputs = [_values(rank, 100_001, "float32") for rank in range(workers)]
    results = world.run(lambda worker: worker.allreduce(inputs[worker.rank].copy()).wait())
    _close(_alike(results), inputs, 1e-4)
    gathered = world.run(lambda worker: worker.allgather(np.array([worker.rank, 7], np.int16)).wait())
    assert _alike(gathered).tolist() == [[rank, 7] for rank in range(workers)]


@pytest.mark.parametrize(("payload", "window"), [(128, 1), (256, 2), (1024, 64), (16384, 4), (2048, 1024)])
@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_payloads_and_windows(worlds: Any, transport: str, payload: int, window: int) -> None:
    world = worlds(2, transport=transport, payload=payload, window=window)
    assert {(worker.payload, worker.window) for worker in world.workers} == {(payload, window)}
    inputs = [_values(rank, 9_001, "float32") for rank in range(2)]

    def reduce(worker: Worker) -> tuple[np.ndarray, float]:
        work = worker.allreduce(inputs[worker.rank].copy())
        return work.wait(), work.error_bound()

    results = world.run(reduce)
    _close(_alike([values for values, _ in results]), inputs, results[0][1])


def test_layouts_of_memory(worlds: Any) -> None:
    world = worlds(2)
    shapes: dict[str, np.ndarray] = {
        "strided": np.arange(40_000, dtype=np.float32)[::2],
        "transposed": np.arange(30_000, dtype=np.float32).reshape(100, 300).T,
        "reversed": np.arange(9_000, dtype=np.int32)[::-1],
        "0-d": np.array(5.0, np.float32),
        "one": np.array([3], np.int64),
        "3-d": np.arange(24.0).reshape(2, 3, 4),
    }
    for name, template in shapes.items():

        def in_place(worker: Worker, name: str = name, template: np.ndarray = template) -> np.ndarray:
            # The same strides as the template's, and memory around it that must stay as it is.
            base = template.base if template.base is not None else template
            memory = base.copy()
            view = (
                np.lib.stride_tricks.as_strided(memory, template.shape, template.strides)
                if name != "reversed"
                else memory[::-1]
            )
            untouched = memory[1::2].copy() if name == "strided" else None
            result = worker.allreduce(view).wait()
            assert result is view
            assert untouched is None or np.array_equal(memory[1::2], untouched)
            return view.copy()

        for result in world.run(in_place):
            assert np.array_equal(result, 2 * template), name


def test_out_leaves_the_source_alone(worlds: Any) -> None:
    world = worlds(2)

    def reduce(worker: Worker) -> None:
        for count in (10, 50_000):
            source = np.full(count, worker.rank + 1, np.float32)
            out = np.empty(2 * count, np.float32)[::2]
            result = worker.allreduce(source, out=out).wait()
            assert result is out
            assert (out == 3).all()
            assert (source == worker.rank + 1).all()
            with pytest.raises(UsageError, match="out has shape"):
                worker.allreduce(source, out=out[1:])
            with pytest.raises(UsageError, match="out has shape"):
                worker.allreduce(source, out=out.astype(np.float64))

    world.run(reduce)


def test_memory_that_must_not_be_written_is_refused(worlds: Any) -> None:
    """A bytes object's memory, say: the engine writes by address, past numpy's own check."""
    world = worlds(1)
    worker = world.workers[0]
    fixed = np.frombuffer(bytes(16), np.int32)
    with pytest.raises(UsageError, match="read-only"):
        worker.allreduce(fixed)
    with pytest.raises(UsageError, match="read-only"):
        worker.broadcast(fixed)
    with pytest.raises(UsageError, match="read-only"):
        worker.allgather(fixed, out=fixed.reshape(1, 4))
    assert worker.allreduce(fixed, out=np.ones(4, np.int32)).wait().tolist() == [0] * 4


@pytest.mark.parametrize("dtype", ["float32", "int32", "float64", "uint8"])
def test_empty_arrays(worlds: Any, dtype: str) -> None:
    world = worlds(2)

    def empty(worker: Worker) -> None:
        for shape in ((0,), (3, 0)):
            assert worker.allreduce(np.zeros(shape, dtype)).wait().shape == shape
            assert worker.broadcast(np.zeros(shape, dtype)).wait().shape == shape
            assert worker.allgather(np.zeros(shape, dtype)).wait().shape == (2, *shape)

    world.run(empty)


def test_non_finite_and_huge_blocks_come_out_as_ieee_says(transport_worlds: Any) -> None:
    world = transport_worlds(2)
    count = 40_000
    inputs = [_values(rank, count, "float32") for rank in range(2)]
    special = [
        (5, np.inf, 1.0), (6, np.inf, -np.inf), (7, np.nan, 0.0), (3_000, 3e38, 3e38), (3_001, 3e38, -3e38),
        (20_000, 2.0**126, 1e-30), (count - 1, -np.inf, -np.inf),
    ]  # fmt: skip
    for at, first, second in special:
        inputs[0][at], inputs[1][at] = first, second

    def reduce(worker: Worker) -> np.ndarray:
        return worker.allreduce(inputs[worker.rank].copy()).wait()

    with np.errstate(all="ignore"):
        exact = inputs[0] + inputs[1]
    result = _alike(world.run(reduce))
    for at, *_ in special:
        # Blocks with such an element are exact in all of their elements.
        block = slice(at // 256 * 256, at // 256 * 256 + 256)
        assert result[block].tobytes() == exact[block].tobytes() or np.array_equal(
            result[block], exact[block], equal_nan=True
        )
    ordinary = np.isfinite(exact) & (np.abs(exact) < 1e30)
    assert np.allclose(result[ordinary], exact[ordinary], rtol=1e-6, atol=1e-4)
    assert sum(worker.counters()["blocks_exact"] for worker in world.workers) == 2 * 4


def test_a_wholly_non_finite_array(worlds: Any) -> None:
    world = worlds(2)
    for value in (np.inf, np.nan):
        results = world.run(lambda worker, v=value: worker.allreduce(np.full(300_000, v, np.float32)).wait())
        assert np.array_equal(_alike(results), np.full(300_000, value, np.float32), equal_nan=True)


@pytest.mark.parametrize("transport", ["shm", "udp"])
def test_exact_blocks_among_collectives_in_flight(worlds: Any, transport: str) -> None:
    """What needs an exact exchange is often known in the same moment as the end of the collective before."""
    world = worlds(2, transport=transport)

    def reduce(worker: Worker) -> None:
        for step in range(40):
            arrays = [np.full(9_000, worker.rank + 1, np.float32) for _ in range(4)]
            arrays[1][7] = np.inf
            arrays[2][8_990] = 2.0**127
            works = [worker.allreduce(array) for array in arrays]
            results = [work.wait() for work in works]
            assert results[1][7] == np.inf, step
            assert results[2][8_990] == np.inf, step
            results[1][7] = results[2][8_990] = 3
            assert all((result == 3).all() for result in results), step

    world.run(reduce)


@pytest.mark.parametrize("transport", ["shm", "udp"])
@pytest.mark.parametrize("length", [1, 3, 4, 1000, 5001, 3_000_001])
def test_broadcast_and_gather_move_bytes(worlds: Any, transport: str, length: int) -> None:
    world = worlds(3, transport=transport)
    raw = [np.random.default_rng(rank).integers(0, 256, length, np.uint8) for rank in range(3)]
    for root in range(3 if length < 10_000 else 1):
        results = world.run(lambda worker, root=root: worker.broadcast(raw[worker.rank].copy(), root).wait())
        assert np.array_equal(_alike(results), raw[root])
    gathered = world.run(lambda worker: worker.allgather(raw[worker.rank]).wait())
    assert np.array_equal(_alike(gathered), np.stack(raw))


def test_broadcast_and_gather_keep_shape_and_bits(worlds: Any) -> None:
    world = worlds(2)

    def move(worker: Worker) -> None:
        odd = np.full((3, 5), np.nan, np.float64).T
        if worker.rank == 1:
            odd[...] = np.arange(15).reshape(5, 3)
        assert worker.broadcast(odd, root=1).wait() is odd
        assert np.array_equal(odd, np.arange(15).reshape(5, 3))
        scalar = np.array(worker.rank + 0.5)
        assert worker.broadcast(scalar).wait() == 0.5
        assert scalar == 0.5
        out = np.empty((2, 2, 3), np.complex64)
        mine = np.full((2, 3), worker.rank + 1j, np.complex64)
        assert worker.allgather(mine, out=out).wait() is out
        assert (out[0] == 1j).all()
        assert (out[1] == 1 + 1j).all()
        assert worker.allgather(np.float32(worker.rank) * np.ones(())).wait().tolist() == [0, 1]
        with pytest.raises(UsageError, match="out must be contiguous"):
            worker.allgather(mine, out=np.empty((2, 3, 2), np.complex64))
        with pytest.raises(UsageError, match="root 2 is no rank of 2"):
            worker.broadcast(scalar, root=2)

    world.run(move)


def test_a_barrier_holds_everybody_until_the_last(transport_worlds: Any) -> None:
    world = transport_worlds(3)
    late = threading.Event()

    def meet(worker: Worker) -> None:
        work = None
        if worker.rank == 2:
            late.wait(20)
        work = worker.barrier()
        if worker.rank == 0:
            assert not work.wait_event(0.2)
            assert not work.done()
            with pytest.raises(RuntimeError, match="not done yet"):
                work.exception()
            late.set()
        work.wait()
        assert work.done()
        assert work.exception() is None

    world.run(meet)


@pytest.mark.parametrize("notify", [True, False])
def test_handles_are_waited_for_in_any_order(transport_worlds: Any, notify: bool) -> None:
    world = transport_worlds(2)

    def reduce(worker: Worker) -> None:
        order = np.random.default_rng(worker.rank).permutation(40)
        arrays = [np.full(1 + 777 * (index % 9), index + worker.rank, np.int32) for index in range(40)]
        works = [worker.allreduce(array, notify=notify) for array in arrays]
        for index in order:
            result = works[index].wait()
            assert result is arrays[index]
            assert (result == 2 * index + 1).all()

    world.run(reduce)


def test_many_small_ones_back_to_back(transport_worlds: Any) -> None:
    world = transport_worlds(2)

    def reduce(worker: Worker) -> None:
        works: list[Work] = []
        for index in range(400):
            works.append(worker.allreduce(np.array([index, worker.rank], np.int32)))
            if index % 7 == 0:
                works.append(worker.barrier())
        results = [work.wait() for work in works]
        sums = [result.tolist() for result in results if result.dtype == np.int32]
        assert sums == [[2 * index, 1] for index in range(400)]

    world.run(reduce)


def test_callbacks_run_once_and_nobody_has_to_wait(worlds: Any) -> None:
    world = worlds(2)

    def reduce(worker: Worker) -> None:
        called = threading.Event()
        seen: list[Work] = []
        work = worker.allreduce(np.ones(50_000, np.float32))
        work.add_done_callback(seen.append)
        work.add_done_callback(lambda _: called.set())
        assert called.wait(20)
        assert seen == [work]
        assert work.done()
        work.add_done_callback(seen.append)
        assert seen == [work, work]
        assert "done" in repr(work)

    world.run(reduce)


def test_collectives_may_come_from_a_callback(worlds: Any) -> None:
    world = worlds(2)

    def chain(worker: Worker) -> int:
        finished = threading.Event()
        results: list[int] = []

        def next_one(work: Work) -> None:
            results.append(int(work.wait()[0]))
            if len(results) == 20:
                finished.set()
                return
            worker.allreduce(np.array([results[-1]], np.int64)).add_done_callback(next_one)

        worker.allreduce(np.array([1], np.int64)).add_done_callback(next_one)
        assert finished.wait(20)
        return results[-1]

    assert world.run(chain) == [2**20, 2**20]


def test_several_threads_of_a_rank_may_wait(worlds: Any) -> None:
    world = worlds(2)

    def reduce(worker: Worker) -> None:
        works = [worker.allreduce(np.full(5_000, index, np.float32)) for index in range(30)]
        wrong: list[int] = []

        def wait(first: int) -> None:
            for index in range(first, 30, 3):
                if not (works[index].wait() == 2 * index).all():
                    wrong.append(index)

        threads = [threading.Thread(target=wait, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []

    world.run(reduce)


def test_a_wait_with_a_timeout_leaves_the_collective_going(worlds: Any) -> None:
    world = worlds(2)
    go = threading.Event()

    def reduce(worker: Worker) -> None:
        if worker.rank == 1:
            go.wait(20)
        work = worker.allreduce(np.ones(10, np.float32))
        if worker.rank == 0:
            with pytest.raises(
                CollectiveTimeoutError, match=r"allreduce of 10 x float32 .* still in flight after 0\.2 s"
            ):
                work.wait(0.2)
            go.set()
        assert (work.wait() == 2).all()

    world.run(reduce)


def test_a_world_of_both_transports(worlds: Any) -> None:
    world = worlds(3, each={0: {"transport": "shm"}, 1: {"transport": "udp"}, 2: {"transport": "udp"}})
    assert [worker.transport for worker in world.workers] == ["shm", "udp", "udp"]
    for count in (10, 60_000):
        inputs = [_values(rank, count, "float32") for rank in range(3)]
        results = world.run(lambda worker, v=inputs: worker.allreduce(v[worker.rank].copy()).wait())
        _close(_alike(results), inputs, 1e-3)


def test_the_switch_in_memory_is_chosen_by_itself(worlds: Any) -> None:
    assert {worker.transport for worker in worlds(2).workers} == {"memory"}


def test_two_jobs_at_once(worlds: Any, emulator: Emulator) -> None:
    jobs = [
        worlds(2, transport="shm"),
        worlds(2, transport="udp"),
        worlds(2, transport="udp", multicast=False, payload=256),
    ]

    def reduce(worker: Worker) -> None:
        number = worker.payload + (worker.transport == "shm")
        for step in range(10):
            assert (
                worker.allreduce(np.full(20_000, number + step, np.int32)).wait() == 2 * (number + step)
            ).all()

    threads = [threading.Thread(target=job.run, args=(reduce,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert emulator.counters()["dropped_wrong_job"] == 0


def test_a_job_name_can_be_used_again(worlds: Any) -> None:
    for value in (1, 2):
        world = worlds(2, job="again")
        assert all(
            (r == 2 * value).all()
            for r in world.run(lambda w, v=value: w.allreduce(np.full(9, v, np.int32)).wait())
        )
        world.close()


def test_the_published_machine_serves_jobs_too(worlds: Any) -> None:
    world = worlds(2, paper=True, transport="shm")
    assert (world.run(lambda worker: worker.allreduce(np.ones(50_000, np.float32)).wait())[0] == 2).all()
