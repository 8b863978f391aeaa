"""What a group holds outside torch: joined once, given back once."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from switchml.errors import JoinTimeoutError, UsageError, WorkerClosedError
from switchml.torch_backend.creation import create_process_group
from switchml.torch_backend.membership import Membership
from switchml.torch_backend.options import Options


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
                groups[rank].barrier()

    for target in (rank_thread, use):
        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(tried) == (0 if target is rank_thread else 2)
    for group in groups.values():
        group.shutdown()


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
    memberships = [weakref.ref(group._membership) for group in ranks.groups]
    ranks.groups.clear()
    gc.collect()
    assert all(worker.closed for worker in ranks.workers.values())
    assert all(membership() is None for membership in memberships)


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

    membership = Membership(
        dist.HashStore(),
        0,
        1,
        group="g",
        timeout=timedelta(seconds=5),
        options=Options(),
        open_worker=nobody,
    )
    membership._worker = Broken()  # type: ignore[assignment]
    with pytest.raises(OSError, match="gone"):
        membership.close()
    with pytest.raises(WorkerClosedError):
        _ = membership.gloo.group
