"""Blocking calls that come again go the short way to a real switch: same results, same errors, fewer steps."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from store_worker import on_every_rank
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceOptions,
    BarrierOptions,
    BroadcastOptions,
    ReduceOptions,
    ReduceScatterOptions,
)
from torch.profiler import ProfilerActivity, profile

from switchml.errors import CollectiveMismatchError, CollectiveTimeoutError, UsageError, WorkerClosedError
from switchml.switch_emulator import Emulator
from switchml.torch_backend.creation import create_process_group
from switchml.torch_backend.options import Options
from switchml.torch_backend.switch_work import BlockingWork, SwitchWork

WORLD = 2


@pytest.fixture(scope="module")
def switch() -> Iterator[str]:
    with Emulator() as emulator:
        yield emulator.control_address


@pytest.fixture
def on_switch(switch: str) -> Iterator[Callable[..., list[Any]]]:
    """Runs a function on every rank of a group that has joined a job."""
    groups = []

    def run(body: Callable[[Any, int], Any], timeout: float = 20.0) -> list[Any]:
        store = dist.HashStore()

        def rank_thread(rank: int) -> Any:
            described = SimpleNamespace(
                store=store,
                group_rank=rank,
                group_size=WORLD,
                timeout=timedelta(seconds=timeout),
                group_id=f"short-{id(store)}",
                global_ranks_in_group=[],
            )
            group = create_process_group(described, Options(switch=switch))
            groups.append(group)
            return body(group, rank)

        return on_every_rank(WORLD, rank_thread)

    yield run
    for group in groups:
        group.shutdown()


def blocking(kind: Any, **fields: Any) -> Any:
    """Options of a call whose caller waits at once."""
    options = kind()
    options.asyncOp = False
    for name, value in fields.items():
        setattr(options, name, value)
    return options


SUM = dist.ReduceOp.SUM


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """The same, not contiguous: it always goes the long way."""
    wide = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


def _call_all(group: Any, rank: int, dtype: torch.dtype, op: Any, count: int, prepare: Any) -> list[Any]:
    """Results of each method, all handles, and the latter's kinds."""
    own = prepare(torch.arange(1, count + 1).to(dtype) * (rank + 1))
    whole = prepare(torch.arange(1, WORLD * count + 1).to(dtype) * (rank + 1))
    side_by_side = torch.zeros(WORLD * count, dtype=dtype)
    made = {
        "allreduce": own.clone(memory_format=torch.preserve_format), "broadcast": prepare(own.clone()),
        "reduce": prepare(own.clone()), "single": prepare(torch.zeros(WORLD * count, dtype=dtype)),
        "scattered": prepare(torch.zeros(count, dtype=dtype)), "part": prepare(torch.zeros(count, dtype=dtype)),
        "own place": prepare(whole.clone()), "in place": prepare(whole.clone()), "overlapping": prepare(whole.clone()),
    }  # fmt: skip
    gathered = [prepare(torch.zeros(count, dtype=dtype)) for _ in range(WORLD)]
    adjacent = list(side_by_side.chunk(WORLD))
    mine = slice(rank * count, (rank + 1) * count)
    reduced = {"reduceOp": dist.ReduceOp(op)}
    handles = [
        group.allreduce([made["allreduce"]], blocking(AllreduceOptions, **reduced)),
        group.broadcast([made["broadcast"]], blocking(BroadcastOptions, rootRank=1)),
        group.reduce([made["reduce"]], blocking(ReduceOptions, rootRank=1, **reduced)),
        group.allgather([gathered], [own], blocking(AllgatherOptions)),
        group.allgather([adjacent], [adjacent[rank].copy_(own)], blocking(AllgatherOptions)),
        group.all_gather_single(made["single"], own, blocking(AllgatherOptions)),
        group.all_gather_single(made["in place"], made["in place"][mine], blocking(AllgatherOptions)),
        group.reduce_scatter([made["part"]], [[own, own.clone()]], blocking(ReduceScatterOptions, **reduced)),
        group.reduce_scatter_single(made["scattered"], whole, blocking(ReduceScatterOptions, **reduced)),
        group.reduce_scatter_single(
            made["own place"][mine], made["own place"], blocking(ReduceScatterOptions, **reduced)
        ),
        group.reduce_scatter_single(
            made["overlapping"][:count], made["overlapping"], blocking(ReduceScatterOptions, **reduced)
        ),
        group.barrier(opts=blocking(BarrierOptions)),
    ]
    assert all(handle.wait() for handle in handles)
    results = [*made.values(), *gathered, side_by_side]
    return [[result.tolist() for result in results], [type(handle) for handle in handles]]


CASES = [
    (torch.float32, SUM, 5), (torch.float32, dist.ReduceOp.AVG, 40_000), (torch.float64, dist.ReduceOp.MAX, 3),
    (torch.int32, SUM, 1), (torch.int64, dist.ReduceOp.BOR, 2), (torch.bfloat16, SUM, 8), (torch.float16, SUM, 30_000),
]  # fmt: skip


def test_results_are_those_of_the_long_way(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        for dtype, op, count in CASES:
            long, kinds = _call_all(group, rank, dtype, op, count, _spread if count > 1 else lambda t: t)
            if count > 1:
                assert set(kinds[:4]) == {SwitchWork}
            for turn in range(4):
                results, kinds = _call_all(group, rank, dtype, op, count, lambda tensor: tensor)
                assert results == long
                if turn == 3 and dtype is torch.float32 and count == 5:
                    # Where the output lies elsewhere in the input, the short way is none.
                    usual = [BlockingWork] * 12
                    usual[10] = BlockingWork if rank == 0 else SwitchWork
                    assert kinds == usual
        assert group._get_sequence_number_for_group() == 12 * 5 * len(CASES)

    on_switch(body)


def test_unusual_tensors_take_the_long_way(on_switch: Any) -> None:
    class Own(torch.Tensor):
        pass

    def body(group: Any, rank: int) -> None:
        def reduce(tensor: torch.Tensor) -> BlockingWork | SwitchWork:
            handle: SwitchWork = group.allreduce([tensor], blocking(AllreduceOptions))
            assert handle.wait()
            return handle

        for _ in range(3):
            reduce(torch.ones(4))
        parameter = torch.nn.Parameter(torch.full((2, 2), rank + 1.0))
        assert type(reduce(parameter)) is BlockingWork
        assert parameter.tolist() == [[3, 3], [3, 3]]
        for unusual in (
            torch.ones(8)[::2],
            torch.ones(4).as_subclass(Own),
            torch._neg_view(-torch.ones(4)),
            torch.ones(4, dtype=torch.complex64),
            torch.ones(0),
        ):
            assert type(reduce(unusual)) is SwitchWork
            assert (unusual == 2).all()
        # Plain arguments say nothing of waiting.
        tensor = torch.ones(4)
        assert type(group.allreduce(tensor, SUM)) is SwitchWork
        assert type(group.allreduce([tensor])) is SwitchWork

    on_switch(body)


def test_a_handle_can_do_what_any_can(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        for _ in range(3):
            tensor = torch.ones(4)
            handle = group.allreduce([tensor], blocking(AllreduceOptions))
        assert type(handle) is BlockingWork
        assert handle.is_completed()
        assert handle.is_success()
        assert handle.exception() is None
        assert handle.result()[0] is tensor
        assert handle.get_future().wait()[0].tolist() == [2, 2, 2, 2]
        assert handle.get_future().done()
        handle.synchronize()
        with pytest.raises(RuntimeError, match="allreduce has no single source rank"):
            handle.source_rank()

    on_switch(body)


def test_calls_go_on_beside_their_caller(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        counts: list[int] = []
        for turn in range(20):
            tensors = [torch.full((1 + 30_000 * (index % 2),), turn + index + rank) for index in range(8)]
            tensors = [tensor.float() for tensor in tensors]
            with _counted(counts):
                first = group.allreduce([tensors[0]], AllreduceOptions())
            handles = [first, *(group.allreduce([tensor], AllreduceOptions()) for tensor in tensors[1:])]
            meeting = group.barrier(opts=BarrierOptions())
            futures = [handle.get_future() for handle in handles[::2]]
            assert all(type(handle) is SwitchWork and handle.wait() for handle in reversed(handles))
            assert meeting.wait()
            assert [future.wait()[0] is tensor for future, tensor in zip(futures, tensors[::2], strict=True)]
            for index, tensor in enumerate(tensors):
                assert (tensor == 2 * (turn + index) + 1).all()
            # What is noted of calls goes when they are over and another one comes.
            assert group.barrier(opts=blocking(BarrierOptions)).wait()
        assert min(counts) <= 45  # 85 the long way

    on_switch(body)


def test_memory_outlives_what_a_tensor_is_made_to_hold_meanwhile(on_switch: Any) -> None:
    """The loop would write results where something else lies."""
    met = threading.Barrier(WORLD, timeout=60)

    def body(group: Any, rank: int) -> None:
        own = [np.full(count, rank + 1.0, np.float32) for count in (3, 3, 6, 6, 3)]
        memories = [weakref.ref(each) for each in own]
        tensors = [torch.from_numpy(each) for each in own]
        reduced, part, whole, gathered, scattered = tensors
        halves = list(gathered.chunk(WORLD))
        for turn in range(4):
            if turn == 3:
                met.wait()
                if rank == 1:
                    met.wait()
            reduce_options, scatter_options = AllreduceOptions(), ReduceScatterOptions()
            handles = [
                group.allreduce([reduced], reduce_options),
                group.all_gather_single(whole, part, AllgatherOptions()),
                group.allgather([halves], [part], AllgatherOptions()),
                group.reduce_scatter_single(scattered, whole.clone(), scatter_options),
            ]
            if turn < 3:
                assert all(handle.wait() for handle in handles)
        del own, gathered
        for tensor in (*tensors[:3], tensors[4], *halves):
            tensor.data = torch.zeros(1)
        if rank == 0:
            assert all(memory() is not None for memory in memories)  # rank 1 has still to come
            met.wait()
        assert all(handle.wait() for handle in handles)
        del tensors, halves, handles
        assert [tensor.tolist() for tensor in (reduced, part, whole, scattered)] == 4 * [[0.0]]

    on_switch(body)


def _prepare(group: Any, *counts: int) -> None:
    for count in counts:
        for _ in range(3):
            assert group.allreduce([torch.ones(count)], blocking(AllreduceOptions)).wait()


def test_ranks_that_differ_hear_of_it_from_the_handle(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        _prepare(group, 10, 20)
        handle = group.allreduce([torch.ones(10 + 10 * rank)], blocking(AllreduceOptions))
        assert type(handle) is BlockingWork
        assert handle.is_completed()
        assert not handle.is_success()
        with pytest.raises(CollectiveMismatchError, match=r"allreduce\(10 x float32"):
            handle.wait()
        with pytest.raises(RuntimeError, match=r"allreduce\(20 x float32"):
            handle.get_future().wait()
        assert isinstance(handle.exception(), CollectiveMismatchError)
        with pytest.raises(CollectiveMismatchError):
            group.allreduce([torch.ones(10)], blocking(AllreduceOptions))

    on_switch(body)


def test_ranks_on_different_paths_hear_of_it(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> str:
        _prepare(group, 10)
        options = blocking(AllreduceOptions)
        # Rank 1's is too large to be gathered.
        tensor = torch.ones(10) if rank == 0 else torch.ones(1_000_000, dtype=torch.float64)
        handle = group.allreduce([tensor], options)
        with pytest.raises(CollectiveMismatchError) as raised:
            handle.wait()
        with pytest.raises(CollectiveMismatchError):
            group.allreduce([torch.ones(10)], options)
        return str(raised.value)

    for text in on_switch(body):
        assert "call 4 of the group" in text
        assert "goes over the switch" in text
        assert "goes over gloo" in text


def test_timeouts_hold(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        _prepare(group, 10, 20)
        if rank == 0:
            short = blocking(AllreduceOptions, timeout=timedelta(seconds=0.3))
            with pytest.raises(CollectiveTimeoutError, match="has not seen it from rank 1"):
                group.allreduce([torch.ones(10)], short).wait()

    on_switch(body)


def test_the_groups_timeout_holds(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        _prepare(group, 10)
        if rank == 0:
            group.set_timeout(timedelta(seconds=0.3))
            with pytest.raises(CollectiveTimeoutError):
                group.allreduce([torch.ones(10)], blocking(AllreduceOptions)).wait()

    on_switch(body)


def test_who_looks_sees_them(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> list[str]:
        _prepare(group, 10)
        group.barrier(opts=blocking(BarrierOptions)).wait()
        if rank == 1:  # a process has one profiler
            _prepare(group, 10)
            return []
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            _prepare(group, 10)
        return [event.name for event in profiler.events() if event.name.startswith("switchml:")]

    names = on_switch(body)[0]
    assert sorted(names) == ["switchml:all_reduce"] * 3 + ["switchml:all_reduce (wait)"] * 3


def test_a_group_that_is_shut_down_says_so(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        _prepare(group, 10)
        group.shutdown()
        with pytest.raises(WorkerClosedError, match="shut down"):
            group.allreduce([torch.ones(10)], blocking(AllreduceOptions))

    on_switch(body)


def test_bad_calls_are_told_as_ever(on_switch: Any) -> None:
    def body(group: Any, rank: int) -> None:
        _prepare(group, 10)
        tensor = torch.ones(10)
        for refused, text in (
            (lambda: group.reduce([tensor], blocking(ReduceOptions, rootRank=2)), "not a rank"),
            (lambda: group.broadcast([tensor], blocking(BroadcastOptions, rootTensor=1)), "root tensor"),
            (
                lambda: group.all_gather_single(tensor, tensor, blocking(AllgatherOptions)),
                "does not fit",
            ),
            (lambda: group.allgather([[tensor]], [tensor], blocking(AllgatherOptions)), "does not fit"),
            (
                lambda: group.reduce_scatter([tensor], [[tensor]], blocking(ReduceScatterOptions)),
                "does not fit",
            ),
        ):
            for _ in range(3):
                with pytest.raises(UsageError, match=text):
                    refused()

    on_switch(body)


@contextmanager
def _counted(counts: list[int]) -> Iterator[None]:
    """Appends how many Python functions are called inside, on this thread."""
    count = -1  # the end of this one

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        counts.append(count)


def test_a_small_collective_takes_few_steps(on_switch: Any) -> None:
    """Most of the time of one is Python's."""

    def body(group: Any, rank: int) -> dict[str, int]:
        tensor, whole = torch.ones(1024), torch.ones(2048)
        gathered = list(torch.ones(2, 1024))
        calls: dict[str, Callable[[], Any]] = {
            "allreduce": lambda: group.allreduce([tensor], blocking(AllreduceOptions)),
            "broadcast": lambda: group.broadcast([tensor], blocking(BroadcastOptions)),
            "reduce": lambda: group.reduce([tensor], blocking(ReduceOptions)),
            "allgather": lambda: group.allgather([gathered], [tensor], blocking(AllgatherOptions)),
            "scatter": lambda: group.reduce_scatter_single(tensor, whole, blocking(ReduceScatterOptions)),
            "barrier": lambda: group.barrier(opts=blocking(BarrierOptions)),
        }
        fewest = {}
        for name, call in calls.items():
            counts: list[int] = []
            for _ in range(20):
                with _counted(counts):
                    call().wait()
            fewest[name] = min(counts)
        return fewest

    for fewest in on_switch(body):
        assert {name: count for name, count in fewest.items() if count > 65} == {}
