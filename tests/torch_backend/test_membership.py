"""What a group holds outside torch: joined once, given back once."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from store_worker import StoreJobs, on_every_rank

from switchml.errors import (
    CollectiveTimeoutError,
    JoinTimeoutError,
    PoolExhaustedError,
    UsageError,
    WorkerClosedError,
)
from switchml.torch_backend import membership
from switchml.torch_backend.creation import create_process_group
from switchml.torch_backend.membership import Membership
from switchml.torch_backend.options import Options
from switchml.torch_backend.routing import GATHERED_LIMIT


def described(
    world_size: int = 1, *, rank: int = 0, ranks: list[int] | None = None, store: Any = None
) -> Any:
    return SimpleNamespace(
        store=dist.HashStore() if store is None else store,
        group_rank=rank,
        group_size=world_size,
        timeout=timedelta(seconds=5),
        group_id="7",
        global_ranks_in_group=ranks or [],
    )


def nobody(*_: Any) -> Any:
    raise AssertionError("no worker is needed")


def test_one_rank_needs_no_switch() -> None:
    group = create_process_group(described(), open_worker=nobody)
    tensor = torch.arange(4.0).reshape(2, 2).t()
    before = tensor.clone()
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.MAX):
        assert group.allreduce([tensor], op).wait()
    assert group.broadcast(tensor, 0).wait()
    assert group.reduce(tensor, 0).wait()
    assert torch.equal(tensor, before)
    everyone = [torch.zeros(2, 2)]
    assert group.allgather([everyone], [tensor]).wait()
    assert torch.equal(everyone[0], before)
    mine = torch.zeros(2, 2)
    assert group.reduce_scatter_single(mine, tensor).wait()
    assert torch.equal(mine, before)
    assert group.barrier().get_future().wait() == []
    assert group.switch_counters() == {}
    assert group.switch_address == ""
    group.shutdown()


def test_options_of_another_backend_are_refused() -> None:
    with pytest.raises(UsageError, match="Options"):
        create_process_group(described(), object(), open_worker=nobody)


def test_the_timeout_of_the_options_goes_first() -> None:
    group = create_process_group(described(), Options(timeout=timedelta(seconds=9)), open_worker=nobody)
    assert group._membership.timeout == 9
    group.shutdown()
    group = create_process_group(described(), open_worker=nobody)
    assert group._membership.timeout == 5
    group.shutdown()


def test_a_default_group_that_cannot_join_says_so_at_once(ranks: Any) -> None:
    def fail(*_: Any) -> Any:
        raise JoinTimeoutError("rank 1 is missing")

    store = dist.HashStore()
    outcome: list[BaseException] = []

    def rank_thread(rank: int) -> None:
        try:
            create_process_group(
                described(2, rank=rank, store=store), Options(switch="h:1"), open_worker=fail
            )
        except BaseException as error:
            outcome.append(error)

    threads = [threading.Thread(target=rank_thread, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [type(error) for error in outcome] == [JoinTimeoutError] * 2


def test_a_group_that_is_not_complete_names_the_missing_ranks() -> None:
    description = described(3, rank=1)
    description.timeout = timedelta(milliseconds=200)
    with pytest.raises(JoinTimeoutError, match="rank 0, 2 of 3"):
        create_process_group(description, open_worker=nobody)


def test_other_groups_join_when_first_used_and_fail_for_good(ranks: Any) -> None:
    tried: list[int] = []

    def fail(*_: Any) -> Any:
        tried.append(1)
        raise JoinTimeoutError("rank 1 is missing")

    store = dist.HashStore()
    groups: dict[int, Any] = {}

    def rank_thread(rank: int) -> None:
        groups[rank] = create_process_group(
            described(2, rank=rank, ranks=[0, 1], store=store), Options(switch="h:1"), open_worker=fail
        )

    def use(rank: int) -> None:
        for _ in range(2):
            with pytest.raises(JoinTimeoutError, match="rank 1 is missing"):
                groups[rank].barrier().wait()

    for target in (rank_thread, use):
        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(tried) == (0 if target is rank_thread else 2)
    for group in groups.values():
        group.shutdown()


@pytest.fixture
def pairs() -> Iterator[Callable[..., list[Any]]]:
    """Makes a group of two ranks that are threads of the test, and has not been used."""
    made: list[Any] = []

    def make(open_worker: Any, *, name: str = "7", store: Any = None, timeout: float = 20.0) -> list[Any]:
        shared = dist.HashStore() if store is None else store

        def create(rank: int) -> Any:
            description = described(2, rank=rank, ranks=[0, 1], store=dist.PrefixStore(name, shared))
            description.group_id, description.timeout = name, timedelta(seconds=timeout)
            return create_process_group(description, Options(switch="nowhere:1"), open_worker=open_worker)

        groups = on_every_rank(2, create)
        made.extend(groups)
        return groups

    yield make
    for group in made:
        group.shutdown()


def test_ranks_may_use_new_groups_in_different_orders(pairs: Any) -> None:
    """No call waits for the other ranks, only the handles do."""
    store = dist.HashStore()
    groups = [pairs(StoreJobs(store, 2).open, name=name, store=store) for name in "ab"]
    tensors = [[torch.full((3,), rank + 1.0) for _ in groups] for rank in range(2)]
    works = {}
    for rank, order in ((0, (0, 1)), (1, (1, 0))):
        for index in order:
            works[rank, index] = groups[index][rank].allreduce([tensors[rank][index]])
    for work in works.values():
        assert work.wait()
    assert all(torch.equal(tensor, torch.full((3,), 3.0)) for mine in tensors for tensor in mine)


def test_calls_keep_their_order_while_a_group_joins(pairs: Any) -> None:
    """Whichever way they go: one rank calls all of them before its place is found, the other afterwards."""
    store = dist.HashStore()
    groups = pairs(StoreJobs(store, 2).open, store=store)
    large = GATHERED_LIMIT // (2 * 8) + 1

    def call(rank: int) -> list[Any]:
        group, tensor = groups[rank], torch.ones(3)
        wide, doubles = torch.ones(large, dtype=torch.float64), torch.ones(large, 1, dtype=torch.float64)
        received = [torch.empty(1), torch.empty(1)] if rank == 0 else []
        works = [
            group.allreduce([tensor]),
            group.gather(received, torch.full((1,), rank + 5.0), 0),
            group.allreduce([wide]),
            group.allreduce([tensor]),
            group.allreduce([doubles.t().t()]),
            group.alltoall_base(torch.empty(2), torch.ones(2), [], []),
        ]
        return [works, tensor, wide, doubles, received]

    early = call(0)
    assert not any(work.is_completed() for work in early[0])
    with pytest.raises(CollectiveTimeoutError, match="allreduce"):
        early[0][0].wait(timedelta(milliseconds=50))
    late = call(1)
    for works, tensor, wide, doubles, _ in (early, late):
        for work in works:
            assert work.wait()
        assert torch.equal(tensor, torch.full((3,), 4.0))
        assert wide.sum() == doubles.sum() == 2 * large
    assert early[-1] == [torch.tensor([5.0]), torch.tensor([6.0])]


def test_a_group_without_room_on_the_switch_takes_gloo(
    pairs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(*_: Any) -> Any:
        raise PoolExhaustedError("job 'x' needs 256 slots in a row, and this switch has 0")

    membership._said.discard(membership._NO_ROOM)

    def use(group: Any, rank: int) -> list[Any]:
        half = torch.full((3, 2), rank + 1.0, dtype=torch.bfloat16).t()
        short, given = torch.full((2,), rank + 1, dtype=torch.int16), torch.full((3,), rank, dtype=torch.int8)
        flags, most, mean = torch.tensor([rank == 0]), torch.tensor([rank, -rank]), torch.tensor([rank + 0.5])
        gathered, mine = [torch.empty(2), torch.empty(2)], torch.empty(1)
        works = [
            group.allreduce([half]),
            group.allreduce([short], dist.ReduceOp.SUM),
            group.allreduce([flags], dist.ReduceOp.BOR),
            group.allreduce([most], dist.ReduceOp.MAX),
            group.allreduce([mean], dist.ReduceOp.AVG),
            group.allreduce([torch.empty(0)]),
            group.broadcast([given], 1),
            group.broadcast([torch.empty(0)], 1),
            group.allgather([gathered], [torch.full((2,), float(rank))]),
            group.reduce_scatter_single(mine, torch.tensor([1.0, 2.0])),
            group.barrier(),
        ]
        for work in works:
            assert work.wait()
        return [half.tolist(), short.tolist(), flags.tolist(), most.tolist(), mean.tolist(), given.tolist(),
                [row.tolist() for row in gathered], mine.item() - 2 * rank]  # fmt: skip

    expected = [[[3.0] * 3] * 2, [3, 3], [True], [1, 0], [1.0], [1, 1, 1], [[0.0, 0.0], [1.0, 1.0]], 2.0]
    for name in "ab":
        groups = pairs(no_room, name=name)
        for _ in range(2):  # while it joins, and afterwards
            assert on_every_rank(2, lambda rank, groups=groups: use(groups[rank], rank)) == [expected] * 2
        assert all(group.switch_address == "" for group in groups)
    assert capsys.readouterr().err.count("needs 256 slots in a row") == 1


def test_a_group_that_joins_can_be_shut_down(pairs: Any) -> None:
    """At once, though its other rank never comes."""
    group = pairs(nobody)[0]
    work = group.allreduce([torch.ones(3)])
    future = work.get_future()
    group.shutdown()
    with pytest.raises(WorkerClosedError, match="before all of its ranks had come"):
        work.wait()
    with pytest.raises(RuntimeError, match="before all of its ranks had come"):
        future.wait()
    with pytest.raises(WorkerClosedError):
        group.allreduce([torch.ones(3)])
    assert not [thread for thread in threading.enumerate() if thread.name == "switchml-futures-7"]


def test_a_full_switch_is_an_error_of_the_default_group(ranks: Any) -> None:
    def no_room(*_: Any) -> Any:
        raise PoolExhaustedError("no slots")

    store = dist.HashStore()

    def create(rank: int) -> None:
        with pytest.raises(PoolExhaustedError, match="no slots"):
            create_process_group(
                described(2, rank=rank, store=store), Options(switch="h:1"), open_worker=no_room
            )

    on_every_rank(2, create)


def test_shutdown_is_final_and_idempotent(ranks: Any) -> None:
    ranks.run(2, lambda group, rank: group.barrier().wait())
    for group in ranks.groups:
        for _ in range(2):
            group.shutdown()
        with pytest.raises(WorkerClosedError):
            group.allreduce([torch.ones(1)])
        with pytest.raises(WorkerClosedError):
            group.send([torch.ones(1)], 0, 0)
    assert all(worker.closed for worker in ranks.workers.values())


def test_shutdown_fails_what_is_in_flight_and_is_bounded(ranks: Any) -> None:
    works: dict[int, Any] = {}

    def body(group: Any, rank: int) -> None:
        if rank == 0:
            works["switch"] = group.allreduce([torch.ones(3)], dist.ReduceOp.SUM, timedelta(seconds=4))
            works["queued"] = group.allreduce([torch.ones(3)], dist.ReduceOp.SUM, timedelta(seconds=4))
            works["gloo"] = group.gather([], torch.ones(1), 1)

    ranks.run(2, body)
    begin = time.monotonic()
    ranks.groups[0].abort()
    for group in ranks.groups:
        group.shutdown()
    assert time.monotonic() - begin < 3
    assert isinstance(works["queued"].exception(), WorkerClosedError)


def test_a_group_can_be_made_again_over_the_same_store() -> None:
    store = dist.HashStore()
    for _ in range(3):
        group = create_process_group(described(store=store), open_worker=nobody)
        assert group.barrier().wait()
        assert group.monitored_barrier(timedelta(seconds=1)) is None
        group.shutdown()


def test_a_dropped_group_gives_everything_back(ranks: Any) -> None:
    ranks.run(2, lambda group, rank: group.barrier().wait())
    members = [weakref.ref(group._membership) for group in ranks.groups]
    ranks.groups.clear()
    gc.collect()
    assert all(worker.closed for worker in ranks.workers.values())
    assert all(member() is None for member in members)


def test_a_forked_child_leaves_the_parents_group_alone(ranks: Any) -> None:
    ranks.run(2, lambda group, rank: group.barrier().wait())
    child = os.fork()
    if child == 0:
        for group in ranks.groups:
            group.shutdown()
        os._exit(sum(worker.closed for worker in ranks.workers.values()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_splitting_is_refused() -> None:
    group = create_process_group(described(), open_worker=nobody)
    with pytest.raises(NotImplementedError, match="new_group"):
        group.split_group([0])
    with pytest.raises(RuntimeError, match="cuda"):
        group._get_backend(torch.device("cuda"))
    group.shutdown()


def test_leaving_that_fails_still_gives_back_the_rest() -> None:
    class Broken:
        def leave(self) -> None:
            raise OSError("the switch is gone")

    mine = Membership(
        dist.HashStore(),
        0,
        1,
        group="g",
        timeout=timedelta(seconds=5),
        options=Options(),
        open_worker=nobody,
    )
    mine._worker = Broken()  # type: ignore[assignment]
    with pytest.raises(OSError, match="gone"):
        mine.close()
    with pytest.raises(WorkerClosedError):
        _ = mine.gloo.group


def test_gloos_interface_is_the_one_that_torchs_variable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    group = create_process_group(described(), open_worker=nobody)
    assert group.monitored_barrier(timedelta(seconds=1)) is None
    group.shutdown()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    with pytest.raises(RuntimeError, match="no-such-interface"):
        create_process_group(described(), open_worker=nobody)
