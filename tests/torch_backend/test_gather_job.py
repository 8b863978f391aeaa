"""Large all-gathers, which have a job of their own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.distributed as dist

from switchml.errors import SwitchMLError, SwitchUnreachableError, WorkerClosedError
from switchml.torch_backend.gather_job import GatherJob
from switchml.torch_backend.routing import GATHERED_LIMIT

LARGE = GATHERED_LIMIT // (2 * 4) + 1


def gather(group: Any, rank: int) -> tuple[torch.Tensor, dist.Work]:
    output = torch.empty(2 * LARGE)
    work: dist.Work = group.all_gather_single(output, torch.arange(LARGE) + 10.0**6 * rank)
    return output, work


def test_every_form_of_it(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[bool]:
        given = torch.arange(LARGE) + 10.0**6 * rank
        listed = [torch.empty(LARGE), torch.empty(LARGE)]
        group.allgather([listed], [given]).wait()
        single, work = gather(group, rank)
        work.wait()
        inside = torch.empty(2 * LARGE)
        mine = inside[rank * LARGE : (rank + 1) * LARGE]
        mine.copy_(given)
        group.all_gather_single(inside, mine).wait()
        expected = torch.cat([torch.arange(LARGE), torch.arange(LARGE) + 10.0**6])
        return [torch.equal(found, expected) for found in (torch.cat(listed), single, inside)]

    assert ranks.run(2, body) == [[True] * 3] * 2


def test_they_and_sums_do_not_wait_for_each_other(ranks: Any) -> None:
    """Called in another order on each rank, which one job would take for a mistake."""
    gathered = threading.Barrier(2)

    def body(group: Any, rank: int) -> list[float]:
        tensor = torch.full((3,), rank + 1.0)
        if rank == 0:
            work = group.allreduce([tensor])
        output, gathering = gather(group, rank)
        gathering.wait()
        gathered.wait(20)
        if rank == 1:
            work = group.allreduce([tensor])
        work.wait()
        assert group.switch_counters()["bytes_sent"] == 4 * LARGE + 3 * 4
        return [float(tensor[0]), float(output[-1])]

    assert ranks.run(2, body) == [[3.0, 10.0**6 + LARGE - 1]] * 2


def test_a_group_that_ends_fails_what_is_in_flight(ranks: Any) -> None:
    """The other rank never comes."""
    ended = threading.Event()

    def body(group: Any, rank: int) -> None:
        if rank:
            assert ended.wait(20)
            return
        _, work = gather(group, rank)
        group.shutdown()
        with pytest.raises(WorkerClosedError):
            work.wait()
        ended.set()
        with pytest.raises(SwitchMLError):
            gather(group, rank)

    ranks.run(2, body)


class Unusable:
    """A membership that has ended before anything could be begun."""

    carrier = None

    def worker(self) -> Any:
        raise SwitchUnreachableError("nobody is there")

    def counters(self) -> dict[str, int]:
        return {}

    def abort(self, error: SwitchMLError) -> None:
        pass

    def close(self, *_: Any, **__: Any) -> None:
        pass


@pytest.mark.parametrize("joined", [False, True])
def test_what_keeps_a_rank_from_joining_fails_all_calls(joined: bool) -> None:
    def join() -> Any:
        if joined:
            return Unusable()
        raise SwitchUnreachableError("nobody is there")

    job = GatherJob(0, 2, join)
    with pytest.raises(SwitchUnreachableError, match="nobody is there"):
        job.worker().allgather(torch.ones(3).numpy()).wait(20)
    with pytest.raises(SwitchUnreachableError, match="nobody is there"):
        job.worker()
    assert job.counters() == {}
    job.close()
