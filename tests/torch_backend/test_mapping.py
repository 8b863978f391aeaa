"""How torch's calls become a worker's."""

from __future__ import annotations

import gc
import threading
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import (
    AllreduceOptions,
    BroadcastOptions,
    ReduceOptions,
    ReduceScatterOptions,
)

from switchml.errors import CollectiveMismatchError, CollectiveTimeoutError, JobAbortedError, UsageError
from switchml.torch_backend import agreement
from switchml.torch_backend.options import Options
from switchml.torch_backend.routing import GATHERED_LIMIT


def test_timeouts_and_notification_reach_the_worker(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        options = AllreduceOptions()
        group.allreduce([torch.ones(1)], options).wait()
        options.timeout, options.asyncOp = timedelta(seconds=3), False
        group.allreduce([torch.ones(1)], options).wait()
        group.allreduce(torch.ones(1), dist.ReduceOp.MAX, timedelta(seconds=4)).wait()
        group.set_timeout(timedelta(seconds=8))
        group.broadcast(torch.ones(1), 1).wait()
        group.barrier(timedelta(seconds=5)).wait()
        group.barrier(timeout=timedelta(seconds=6)).wait()
        group.allgather([torch.empty(1), torch.empty(1)], torch.ones(1), timedelta(seconds=7)).wait()

    ranks.run(2, body, timeout=20.0)
    assert ranks.workers[0].calls == [
        ("allreduce sum float32 1", 20.0, True),
        ("allreduce sum float32 1", 3.0, False),
        ("allreduce max float32 1", 4.0, True),
        ("broadcast none bytes 4", 8.0, True),
        ("barrier none bytes 0", 5.0, True),
        ("barrier none bytes 0", 6.0, True),
        ("allgather none bytes 4", 7.0, True),
    ]


def test_bfloat16_is_named(ranks: Any) -> None:
    def body(group: Any, rank: int) -> torch.Tensor:
        tensor = torch.full((2, 2), 1.5 * (rank + 1), dtype=torch.bfloat16).t()
        group.allreduce([tensor]).wait()
        return tensor

    for tensor in ranks.run(2, body):
        assert torch.equal(tensor, torch.full((2, 2), 4.5, dtype=torch.bfloat16))
    assert ranks.workers[0].calls[0][0] == "allreduce sum bfloat16 4"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_coalesced_tensors_that_overlap(ranks: Any, dtype: torch.dtype) -> None:
    """Every input counts as it was before the call, as in gloo, which flattens them first."""

    def body(group: Any, rank: int) -> list[list[float]]:
        same = torch.full((4,), rank + 1.0, dtype=dtype)
        whole = torch.arange(6.0).to(dtype) + rank
        group.allreduce_coalesced(
            [same, whole[3:], same, whole[:4], whole, same.reshape(2, 2).t(), torch.empty(0)]
        ).wait()
        return [same.tolist(), whole.tolist()]

    assert ranks.run(2, body) == [[[3.0] * 4, [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]]] * 2


def test_large_coalesced_tensors_that_overlap_take_gloo(ranks: Any) -> None:
    large = GATHERED_LIMIT // (2 * 8) + 1

    def body(group: Any, rank: int) -> list[float]:
        tensor = torch.full((large,), rank + 1.0, dtype=torch.float64)
        group.allreduce_coalesced([tensor, tensor[1:]]).wait()
        return [tensor.min().item(), tensor.max().item()]

    assert ranks.run(2, body) == [[3.0, 3.0]] * 2
    assert ranks.workers[0].calls == []


def test_storages_can_be_resized_after_any_collective(ranks: Any) -> None:
    """FSDP frees and refills its flat parameters that way."""

    def body(group: Any, rank: int) -> None:
        def one() -> torch.Tensor:
            return torch.full((4,), rank + 1.0)

        calls: list[tuple[Any, list[torch.Tensor]]] = []
        for call in (
            lambda a, b, c: group.allreduce([a]),
            lambda a, b, c: group.allreduce_coalesced([a, b]),
            lambda a, b, c: group.reduce(a, 0),
            lambda a, b, c: group.broadcast(a, 0),
            lambda a, b, c: group.allgather([a, b], c),
            lambda a, b, c: group.all_gather_single(a, b[:2]),
            lambda a, b, c: group.allgather_coalesced([[a, b], [c, a.clone()]], [one(), b]),
            lambda a, b, c: group.reduce_scatter(a, [b, c], dist.ReduceOp.SUM),
            lambda a, b, c: group.reduce_scatter_single(a[:2], b),
        ):
            tensors = [one(), one(), one()]
            calls.append((call(*tensors), tensors))
        for work, tensors in calls:
            work.wait()
            for tensor in tensors:
                tensor.untyped_storage().resize_(0)
                tensor.untyped_storage().resize_(16)
                tensor.resize_(8).resize_(0)
                torch.cat([torch.ones(8), torch.ones(8)], out=tensor)
                assert tensor.tolist() == [1.0] * 16

    ranks.run(2, body)


@pytest.mark.parametrize("elements", [8, 2 * GATHERED_LIMIT])
def test_negated_views(ranks: Any, elements: int) -> None:
    """Their memory holds the values with the other sign; on the switch and over gloo."""

    def body(group: Any, rank: int) -> list[float]:
        tensor = torch.full((elements,), complex(0, rank + 1), dtype=torch.complex128).conj().imag
        contiguous = torch._neg_view(torch.full((elements,), rank + 1.0, dtype=torch.float64))
        gathered = [torch._neg_view(torch.empty(elements, dtype=torch.float64)) for _ in range(2)]
        for values in (tensor, contiguous):
            group.allreduce([values]).wait()
        group.allgather([gathered], [contiguous]).wait()
        with pytest.raises(UsageError, match="resolve_neg"):
            group.send([tensor], 1 - rank, 3)
        return [tensor[-1].item(), contiguous[-1].item(), *(one[-1].item() for one in gathered)]

    assert ranks.run(2, body) == [[-3.0] * 4] * 2


def test_plain_arguments_by_torchs_names(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[Any]:
        def own() -> torch.Tensor:
            return torch.full((2,), rank + 1.0)

        first, second, third, output = own(), own(), own(), torch.empty(1)
        gathered = [torch.empty(2), torch.empty(2)]
        seconds = timedelta(seconds=9)
        group.broadcast(first, root=1).wait()
        group.allreduce(tensor=second, op=dist.ReduceOp.MAX, timeout=seconds).wait()
        group.reduce(tensor=third, root=0, op=dist.ReduceOp.PRODUCT).wait()
        group.allgather(output_tensors=gathered, input_tensor=own(), timeout=seconds).wait()
        parts = [torch.full((1,), rank + 1.0)] * 2
        group.reduce_scatter(output=output, input=parts, op=dist.ReduceOp.SUM).wait()
        if rank == 1:
            third.fill_(2)
        return [one[0].item() for one in (first, second, third, *gathered, output)]

    assert ranks.run(2, body) == [[2.0, 2.0, 2.0, 1.0, 2.0, 3.0]] * 2


@pytest.mark.parametrize("elements", [3, GATHERED_LIMIT])
def test_several_tensors_in_one_call(ranks: Any, elements: int) -> None:
    """As torch's tests of gloo have it: the tensors of all ranks count as one row."""

    def body(group: Any, rank: int) -> list[Any]:
        def two() -> list[torch.Tensor]:
            return [torch.full((elements,), 2.0 * rank + number, dtype=torch.float64) for number in range(2)]

        reduced, largest, given = two(), two(), two()
        group.allreduce(reduced).wait()
        group.allreduce(largest, dist.ReduceOp.MAX).wait()
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = 1, 1
        group.broadcast(given, options).wait()
        outputs = [[torch.empty(elements, dtype=torch.float64) for _ in range(4)] for _ in range(2)]
        group.allgather(outputs, two()).wait()
        same = torch.full((elements,), rank + 1.0, dtype=torch.float64)
        group.allreduce([same, same]).wait()
        rows = [[one[-1].item() for one in row] for row in (reduced, largest, given, *outputs)]
        return [*rows, same[0].item()]

    row = [0.0, 1.0, 2.0, 3.0]
    assert ranks.run(2, body) == [[[6.0] * 2, [3.0] * 2, [3.0] * 2, row, row, 6.0]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_several_tensors_of_which_each_rank_keeps_some(ranks: Any, dtype: torch.dtype) -> None:
    """Reduced over all of them; the result goes to the root's chosen one, or each tensor gets its part of the row."""

    def body(group: Any, rank: int) -> list[Any]:
        def full(value: float) -> torch.Tensor:
            return torch.full((2, 3), value, dtype=dtype).t()

        reduced = [full(2.0 * rank), full(2.0 * rank + 1)]
        options = ReduceOptions()
        options.rootRank, options.rootTensor = 1, 1
        group.reduce(reduced, options).wait()
        lists = [[full(10.0 * place + 2 * rank + number) for place in range(4)] for number in range(2)]
        parts = [full(0.0), full(0.0)]
        group.reduce_scatter(parts, lists).wait()
        means = [full(0.0), full(0.0)]
        average = ReduceScatterOptions()
        average.reduceOp = dist.ReduceOp.AVG
        group.reduce_scatter(means, lists, average).wait()
        for wrong in (lists[:1], [lists[0], lists[1][:3]]):
            with pytest.raises(UsageError, match="takes 2 lists of 2 x world size"):
                group.reduce_scatter(parts, wrong)
        return [torch.stack(each).real.amax((1, 2)).tolist() for each in (reduced, parts, means)]

    first, second = ranks.run(2, body)
    assert first == [[0.0, 1.0], [6.0, 46.0], [1.5, 11.5]]
    assert second == [[2.0, 6.0], [86.0, 126.0], [21.5, 31.5]]


def test_refusals_are_of_torchs_kind(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        for call in (group.allreduce, group.allreduce_coalesced, group.broadcast, group.reduce):
            with pytest.raises(ValueError, match="requires non-empty tensor list"):
                call([])
        for call in (group.allreduce, group.broadcast):
            with pytest.raises(ValueError, match="one dtype and one shape"):
                call([torch.ones(2), torch.ones(3)])
        options = BroadcastOptions()
        options.rootTensor = 1
        with pytest.raises(ValueError, match="invalid root tensor"):
            group.broadcast([torch.ones(1)], options)

    ranks.run(2, body)


def test_options_tell_the_timeout_of_now(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[Any]:
        before = group.options._timeout
        group.set_timeout(timedelta(seconds=8))
        return [before, group.options._timeout, group.options.window]

    told = ranks.run(2, body, timeout=20.0, options=Options(switch="nowhere:1", window=64))
    assert told == [[timedelta(seconds=20), timedelta(seconds=8), 64]] * 2


def test_reduce_spares_the_other_ranks(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[list[float]]:
        options = ReduceOptions()
        options.rootRank, options.reduceOp = 1, dist.ReduceOp.PRODUCT
        by_options, by_arguments = torch.full((3,), rank + 2.0), torch.full((3,), rank + 2.0)
        group.reduce([by_options], options).wait()
        group.reduce(by_arguments, 0, dist.ReduceOp.MAX).wait()
        return [by_options.tolist(), by_arguments.tolist()]

    assert ranks.run(2, body) == [[[2.0] * 3, [3.0] * 3], [[6.0] * 3, [3.0] * 3]]


def test_reduce_scatter_of_uneven_parts(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[float]:
        output = torch.empty(rank + 1)
        inputs = [torch.full((size,), 10.0 * rank + size) for size in (1, 2)]
        group.reduce_scatter(output, inputs, dist.ReduceOp.SUM).wait()
        assert [one.tolist() for one in inputs] == [[10.0 * rank + 1], [10.0 * rank + 2] * 2]
        return output.tolist()

    assert ranks.run(2, body) == [[12.0], [14.0, 14.0]]


def test_coalesced_reduce_scatter(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[list[float]]:
        options = ReduceScatterOptions()
        options.reduceOp = dist.ReduceOp.AVG
        outputs = [torch.empty(1), torch.empty(2)]
        inputs = [torch.arange(2.0) + rank, (torch.arange(4.0) + rank).reshape(2, 2).t()]
        group.reduce_scatter_single_coalesced(outputs, inputs, options).wait()
        return [output.tolist() for output in outputs]

    assert ranks.run(2, body) == [[[0.5], [0.5, 2.5]], [[1.5], [1.5, 3.5]]]


def test_gather_in_place(ranks: Any) -> None:
    """FSDP's input is a part of the output."""

    def body(group: Any, rank: int) -> list[float]:
        output = torch.zeros(4)
        output[2 * rank : 2 * rank + 2] = rank + 1.0
        group.all_gather_single(output, output[2 * rank : 2 * rank + 2]).wait()
        return output.tolist()

    assert ranks.run(2, body) == [[1.0, 1.0, 2.0, 2.0]] * 2


def test_point_to_point_takes_gloo(ranks: Any) -> None:
    def body(group: Any, rank: int) -> float:
        received = torch.empty(1)
        works = [group.send([torch.tensor([5.0 + rank])], 1 - rank, 3), group.recv([received], 1 - rank, 3)]
        for work in works:
            work.wait()
        return received.item()

    assert ranks.run(2, body) == [6.0, 5.0]
    assert ranks.workers[0].calls == []


@pytest.mark.parametrize("method", ["recv_anysource", "recvAnysource"])
def test_a_receive_from_any_rank_takes_gloo_by_either_name(ranks: Any, method: str) -> None:
    def body(group: Any, rank: int) -> float:
        received = torch.empty(1)
        works = [group.send([torch.tensor([5.0 + rank])], 1 - rank, 3), getattr(group, method)([received], 3)]
        for work in works:
            work.wait()
        return received.item()

    assert ranks.run(2, body) == [6.0, 5.0]
    assert ranks.workers[0].calls == []


@pytest.mark.parametrize("prefix", ["", "_"])
def test_coalescing_call_by_call_is_refused_as_by_gloo(ranks: Any, prefix: str) -> None:
    def body(group: Any, rank: int) -> None:
        for name in ("start_coalescing", "end_coalescing"):
            with pytest.raises(RuntimeError, match="does not implement"):
                getattr(group, prefix + name)(torch.device("cpu"))

    ranks.run(2, body)


def test_large_exact_reductions_take_gloo(ranks: Any) -> None:
    large = GATHERED_LIMIT // (2 * 8) + 1

    def body(group: Any, rank: int) -> list[float]:
        wide = torch.full((large,), rank + 1.0, dtype=torch.float64)
        group.allreduce([wide]).wait()
        single = torch.full((large * 2,), rank + 1.0)
        group.allreduce(single, dist.ReduceOp.MAX).wait()
        reduced = torch.full((large,), rank + 1, dtype=torch.int64)
        group.reduce(reduced, 0, dist.ReduceOp.PRODUCT).wait()
        part = torch.empty(large, dtype=torch.float64)
        group.reduce_scatter_single(part, torch.full((2 * large,), rank + 1.0, dtype=torch.float64)).wait()
        return [wide[-1].item(), single[-1].item(), reduced[-1].item() if rank == 0 else 2, part[0].item()]

    assert ranks.run(2, body) == [[3.0, 2.0, 2, 3.0]] * 2
    assert ranks.workers[0].calls == []


def test_coalesced_gathers_are_queued_back_to_back(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[Any]:
        inputs = [torch.full((2,), float(rank)), torch.full((3,), 10.0 + rank, dtype=torch.float64)]
        outputs = [[torch.empty_like(one) for one in inputs] for _ in range(2)]
        group.allgather_coalesced(outputs, inputs).wait()
        singles = [torch.empty(4), torch.empty(6, dtype=torch.float64)]
        group.all_gather_single_coalesced(singles, inputs).wait()
        return [[one.tolist() for one in by_rank] for by_rank in outputs] + [one.tolist() for one in singles]

    expected = [
        [[0.0, 0.0], [10.0] * 3],
        [[1.0, 1.0], [11.0] * 3],
        [0.0, 0.0, 1.0, 1.0],
        [10.0] * 3 + [11.0] * 3,
    ]
    assert ranks.run(2, body) == [expected] * 2
    assert [call for call, _, _ in ranks.workers[1].calls] == [
        "allgather none bytes 8",
        "allgather none bytes 24",
    ] * 2


def test_calls_that_do_not_fit_are_refused_before_anything_is_sent(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        bad_root = BroadcastOptions()
        bad_root.rootRank = 2
        for call in (
            lambda: group.allreduce([torch.ones(1), torch.ones(2)]),
            lambda: group.broadcast([torch.ones(1)], bad_root),
            lambda: group.reduce(torch.ones(1), -1),
            lambda: group.allgather([[torch.ones(1)]], [torch.ones(1)]),
            lambda: group.allgather([[torch.ones(1), torch.ones(2)]], [torch.ones(1)]),
            lambda: group.all_gather_single(torch.ones(3), torch.ones(2)),
            lambda: group.all_gather_single(torch.ones(4, dtype=torch.int32), torch.ones(2)),
            lambda: group.reduce_scatter_single(torch.ones(2), torch.ones(3)),
            lambda: group.reduce_scatter([torch.ones(2)], [[torch.ones(1), torch.ones(1)]]),
            lambda: group.reduce_scatter([torch.ones(1)], [[torch.ones(1)]]),
            lambda: group.reduce_scatter_single(torch.ones(2), torch.ones(4, dtype=torch.float64)),
        ):
            with pytest.raises(UsageError):
                call()

    ranks.run(2, body)
    assert ranks.workers[0].calls == []


def test_an_error_on_the_wire_comes_out_of_wait(ranks: Any) -> None:
    entered = threading.Barrier(2)

    def body(group: Any, rank: int) -> tuple[type, str]:
        entered.wait()
        ranks.workers[rank].fail_next = JobAbortedError("rank 2 has not been heard for 10.0 s")
        work = group.allreduce([torch.ones(2)])
        with pytest.raises(JobAbortedError, match="rank 2") as caught:
            work.wait()
        with pytest.raises(RuntimeError, match="rank 2 has not been heard"):
            work.get_future().wait()
        return type(work.exception()), str(caught.value)

    assert {kind for kind, _ in ranks.run(2, body)} == {JobAbortedError}


def test_ranks_that_disagree(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        with pytest.raises(CollectiveMismatchError):
            group.allreduce([torch.ones(2 + rank)]).wait()

    ranks.run(2, body)


@pytest.mark.parametrize("elements", [1, 100_000])
def test_a_handle_that_only_cpp_holds(ranks: Any, elements: int) -> None:
    """As in DDP's join: Python's object of it has no reference left, before or after its end."""

    def body(group: Any, rank: int) -> list[Any]:
        tensors = [torch.full((elements,), rank + 1.0) for _ in range(2)]
        held = [group.allreduce([tensor]).boxed() for tensor in tensors]
        group.barrier().wait()  # both are over
        gc.collect()
        ended = [dist.Work.unbox(one).wait(timedelta(seconds=5)) for one in held]
        return ended + [tensor.max().item() for tensor in tensors]

    assert ranks.run(2, body) == [[True, True, 3.0, 3.0]] * 2


LARGE = GATHERED_LIMIT // (2 * 8) + 1
DISAGREEMENTS: dict[str, tuple[Any, Any]] = {
    "dtype": (
        lambda group: group.allreduce([torch.ones(LARGE)]),
        lambda group: group.allreduce([torch.ones(LARGE, dtype=torch.float64)]),
    ),
    "size": (
        lambda group: group.allreduce([torch.ones(10, dtype=torch.float64)]),
        lambda group: group.allreduce([torch.ones(LARGE, dtype=torch.float64).as_strided((LARGE,), (1,))]),
    ),
    "layout": (
        lambda group: group.allreduce([torch.ones(10, dtype=torch.float64)]),
        lambda group: group.allreduce([torch.ones(2, LARGE, dtype=torch.float64).t()]),
    ),
    "operation": (
        lambda group: group.allreduce([torch.ones(LARGE)]),
        lambda group: group.allreduce(torch.ones(2 * LARGE), dist.ReduceOp.MAX),
    ),
    "collective": (
        lambda group: group.barrier(),
        lambda group: group.alltoall([torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(1)]),
    ),
    "collective over gloo": (
        lambda group: group.alltoall([torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(1)]),
        lambda group: group.allreduce([torch.ones(LARGE, dtype=torch.float64)]),
    ),
}


@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_ranks_that_disagree_about_the_path(ranks: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PATIENCE", 0.1)

    def body(group: Any, rank: int) -> list[str]:
        group.allreduce([torch.ones(LARGE)]).wait()
        work = DISAGREEMENTS[what][rank](group)
        with pytest.raises(CollectiveMismatchError, match=r"rank 0 .*rank 1|rank 1 .*rank 0"):
            work.wait()
        with pytest.raises(CollectiveMismatchError):
            group.barrier().wait()
        return [str(work.exception())]

    one, other = ranks.run(2, body, timeout=60.0)
    assert one == other


def test_all_of_three_ranks_hear_of_a_disagreement(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PATIENCE", 0.1)

    def body(group: Any, rank: int) -> None:
        tensor = torch.ones(LARGE, dtype=torch.float64)
        work = group.allreduce([tensor]) if rank else group.gather([[tensor.clone()] * 3], [tensor])
        with pytest.raises(CollectiveMismatchError, match=r"gather.*allreduce|allreduce.*gather"):
            work.wait()

    ranks.run(3, body, timeout=60.0)


def test_a_late_rank_is_no_disagreement(ranks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PATIENCE", 0.0)
    looked = threading.Event()
    compare = agreement.Agreement._compare

    def compare_and_tell(self: Any, call: Any) -> str:
        text = compare(self, call)
        looked.set()
        return text

    monkeypatch.setattr(agreement.Agreement, "_compare", compare_and_tell)

    def body(group: Any, rank: int) -> list[float]:
        totals = []
        for dtype in (torch.float32, torch.float64):
            tensor = torch.full((LARGE,), rank + 1.0, dtype=dtype)
            if rank == 1:
                looked.wait(20)
            group.allreduce([tensor]).wait()
            looked.clear()
            group.barrier().wait()
            totals.append(tensor[0].item())
        return totals

    assert ranks.run(2, body, timeout=60.0) == [[3.0, 3.0]] * 2


def test_many_in_flight_with_callbacks_that_wait(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[float]:
        def add_again(done: Any) -> torch.Tensor:
            return done.value()[0] + 1

        works = [group.allreduce([torch.full((2,), float(number))]) for number in range(20)]
        chained = [work.get_future().then(add_again) for work in works]
        return [future.wait()[0].item() for future in chained]

    assert ranks.run(3, body) == [[3.0 * number + 1 for number in range(20)]] * 3


def test_names(ranks: Any) -> None:
    def body(group: Any, rank: int) -> Any:
        group._set_group_name("named")
        group._set_group_desc("described")
        return (
            group.name(),
            group._get_backend_name(),
            group.group_name,
            group.group_desc,
            group.rank(),
            group.size(),
            group.switch_address,
            group.switch_counters(),
        )

    expected = ("switchml", "switchml", "named", "described")
    assert ranks.run(2, body) == [
        (*expected, rank, 2, "nowhere:1", {"packets_sent": 0, "bytes_sent": 0}) for rank in range(2)
    ]


def test_flat_arrays_over_gloo_keep_to_their_timeouts(ranks: Any) -> None:
    """Rank 1 comes late to the first call, and not at all to the second."""
    rows = GATHERED_LIMIT // (2 * 8)
    called, waited, over = threading.Event(), threading.Event(), threading.Event()

    def body(group: Any, rank: int) -> float:
        turned = torch.full((2, rows), rank + 1.0, dtype=torch.float64).t()  # gloo refuses the layout
        if rank == 1:
            called.wait(20)
            waited.wait(20)
            group.allreduce([turned]).wait()
            over.wait(20)
            return turned[-1, -1].item()
        work = group.allreduce([turned])
        called.set()
        with pytest.raises(CollectiveTimeoutError):
            work.wait(timedelta(milliseconds=50))
        waited.set()
        work.wait()
        options = AllreduceOptions()
        options.timeout = timedelta(seconds=1)
        late = group.allreduce([torch.ones(rows, 2, dtype=torch.float64).t()], options)
        with pytest.raises(RuntimeError, match=r"(?i)timed out"):
            late.wait()
        over.set()
        return turned[-1, -1].item()

    assert ranks.run(2, body) == [3.0, 3.0]
    assert ranks.workers[0].calls == []
