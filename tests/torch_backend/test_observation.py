"""Who looks at collectives sees those of the switch as he sees gloo's."""

from __future__ import annotations

import gc
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor.debug import CommDebugMode
from torch.profiler import ProfilerActivity, profile

WORLD = 2


def call_all(group: Any, rank: int) -> list[Any]:
    """Each method once; in-place where torch lets outputs be parts of inputs. Returns the results."""
    own = torch.tensor([1.0, 2.0]) * (rank + 1)
    whole = torch.arange(4.0) + 10 * rank
    results = {
        "allreduce": own.clone(), "coalesced": own.clone(), "broadcast": own.clone(), "reduced": own.clone(),
        "gathered": [torch.zeros(2) for _ in range(WORLD)], "in_place": torch.zeros(4), "scattered": whole.clone(),
        "part": torch.zeros(2),
    }  # fmt: skip
    made = SimpleNamespace(**results)
    made.in_place[2 * rank : 2 * rank + 2] = own
    # The first half: rank 1's result is not where its part of the input is.
    parts = [own.clone(), own.clone()]
    for work in (
        group.allreduce([made.allreduce]),
        group.allreduce_coalesced([made.coalesced]),
        group.broadcast(made.broadcast, 1),
        group.reduce(made.reduced, 0),
        group.allgather([made.gathered], [own]),
        group.all_gather_single(made.in_place, made.in_place[2 * rank : 2 * rank + 2]),
        group.reduce_scatter_single(made.scattered[:2], made.scattered),
        group.reduce_scatter([made.part], [parts]),
        group.barrier(),
    ):
        assert work.wait()
    return [torch.stack(made.gathered).tolist()] + [
        results[name].tolist() for name in results if name != "gathered"
    ]


# As CommDebugMode counts them for gloo; it has no eyes for barriers.
COUNTED = {
    "c10d.allreduce_": 1, "c10d.allreduce_coalesced_": 1, "c10d.broadcast_": 1, "c10d.reduce_": 1, "c10d.allgather_": 1,
    "c10d._allgather_base_": 1, "c10d._reduce_scatter_base_": 1, "c10d.reduce_scatter_": 1,
}  # fmt: skip
TITLES = {
    "switchml:all_reduce": 2, "switchml:broadcast": 1, "switchml:reduce": 1, "switchml:all_gather": 2,
    "switchml:reduce_scatter": 2, "switchml:barrier": 1,
}  # fmt: skip


def test_comm_debug_mode_counts_them_and_results_stay_the_same(ranks: Any) -> None:
    def body(group: Any, rank: int) -> tuple[list[Any], list[Any], dict[str, int]]:
        unobserved = call_all(group, rank)
        with CommDebugMode() as mode:
            observed = call_all(group, rank)
        return unobserved, observed, {str(op): count for op, count in mode.get_comm_counts().items()}

    for unobserved, observed, counts in ranks.run(WORLD, body):
        assert observed == unobserved
        assert counts == COUNTED


def test_the_profiler_shows_their_time_and_their_sizes(ranks: Any) -> None:
    def body(group: Any, rank: int) -> Any:
        if rank == 1:  # a process has one profiler
            return call_all(group, rank)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            call_all(group, rank)
        return profiler.events()

    events = ranks.run(WORLD, body)[0]
    ours = [event for event in events if event.name.startswith("switchml:")]
    assert not any(event.is_async for event in ours)
    calls = [event for event in ours if not event.name.endswith(" (wait)")]
    assert Counter(event.name for event in calls) == TITLES
    assert Counter(event.name.removesuffix(" (wait)") for event in ours) == {
        name: 2 * n for name, n in TITLES.items()
    }
    assert all(event.time_range.elapsed_us() > 0 for event in ours)
    sizes = [event.input_shapes for event in calls if event.name == "switchml:reduce_scatter"]
    assert sizes == [[[4]], [[2], [2]]]
    operators = Counter(event.name for event in events if event.name.startswith("c10d::"))
    assert operators == Counter({name.replace(".", "::"): 1 for name in COUNTED} | {"c10d::barrier": 1})


def test_a_call_that_is_refused_or_fails_ends_its_event(ranks: Any) -> None:
    def body(group: Any, rank: int) -> Any:
        if rank == 1:
            return None
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            with pytest.raises(RuntimeError, match="cannot be reduced"):
                group.allreduce([torch.ones(2, dtype=torch.float8_e5m2)])
            ranks.workers[rank].fail_next = ValueError("broken")
            with pytest.raises(ValueError, match="broken"):
                group.allreduce([torch.ones(2)]).wait()
        return profiler.events()

    events = ranks.run(WORLD, body)[0]
    assert sum(event.name == "switchml:all_reduce" for event in events) == 2


def test_what_goes_over_gloo_is_seen_once(ranks: Any) -> None:
    def body(group: Any, rank: int) -> int:
        with CommDebugMode() as mode:
            group.allreduce([torch.ones(200_000, dtype=torch.float64)]).wait()
            group.alltoall_base(torch.empty(2), torch.ones(2), [], []).wait()
        return sum(mode.get_comm_counts().values())

    assert ranks.run(WORLD, body) == [2, 2]


def test_what_ends_after_the_profiler_harms_nothing(ranks: Any) -> None:
    """Events ended by other threads once wrote into memory that the profiler had freed."""

    def body(group: Any, rank: int) -> bool:
        if rank == 1:
            time.sleep(0.2)
            return bool(group.allreduce([torch.ones(2)]).wait())
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work = group.allreduce([torch.ones(2)])
        names = [event.name for event in profiler.events()]
        del profiler
        gc.collect()
        return bool(work.wait()) and "switchml:all_reduce" in names

    assert ranks.run(WORLD, body) == [True, True]
    gc.collect()
