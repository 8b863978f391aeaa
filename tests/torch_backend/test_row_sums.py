"""All-reduces of sparse tensors, against dense ones and gloo's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from switchml.errors import CollectiveMismatchError, UsageError, WorkerClosedError
from switchml.torch_backend import agreement, row_sums

WORLD = 3


def sparse(rows: list[int], shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-50, 50, (len(rows), *shape[1:]), generator=generator).to(dtype)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True)


def spread(rank: int, count: int, rows: int) -> list[int]:
    """Rows, some of which other ranks have as well, and some of which come twice."""
    return torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(rank)).tolist()


CASES: dict[str, tuple[Callable[[int], list[int]], int]] = {
    "nobody has any": (lambda rank: [], 1000),
    "one rank alone": (lambda rank: [3, 999, 3] if rank == 1 else [], 1000),
    "few": (lambda rank: spread(rank, 30, 1000), 1000),
    "more than the first message holds": (lambda rank: spread(rank, 400, 40_000), 40_000),
    "as bits": (lambda rank: spread(rank, 400, 1000), 1000),
    "one rank has all": (lambda rank: list(range(300)) if rank == 0 else [7], 300),
    "all": (lambda rank: list(range(300)), 300),
}


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_sum_is_that_of_the_dense_tensors(
    ranks: Any, monkeypatch: pytest.MonkeyPatch, case: str, gathered: bool
) -> None:
    rows_of, rows = CASES[case]
    monkeypatch.setattr(row_sums, "gathers", lambda *_: gathered)
    given = [sparse(rows_of(rank), (rows, 5), torch.float32, rank) for rank in range(WORLD)]

    def body(group: Any, rank: int) -> torch.Tensor:
        tensor = given[rank].clone()
        work = group.allreduce([tensor])
        work.wait()
        assert work.result() == [tensor]
        return tensor

    expected = sum(one.to_dense() for one in given)
    union = sorted(set().union(*(rows_of(rank) for rank in range(WORLD))))
    for result in ranks.run(WORLD, body):
        assert result.is_coalesced()
        assert result.indices().tolist() == [union]
        assert torch.equal(result.to_dense(), expected)  # small integers: exact in every way


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.complex64]
)
def test_other_dtypes(ranks: Any, dtype: torch.dtype) -> None:
    given = [sparse(spread(rank, 40, 90), (90, 3), dtype, rank) for rank in range(WORLD)]

    def body(group: Any, rank: int) -> torch.Tensor:
        tensor = given[rank].clone()
        group.allreduce([tensor]).wait()
        return tensor

    expected = torch.stack([one.coalesce().to_dense() for one in given]).sum(0)
    for result in ranks.run(WORLD, body):
        assert result.dtype is dtype
        assert torch.equal(result.to_dense(), expected)


def test_several_sparse_dimensions_and_none_dense(ranks: Any) -> None:
    def body(group: Any, rank: int) -> torch.Tensor:
        places = torch.tensor([[0, 4, rank], [1, 5, 0]])
        tensor = torch.sparse_coo_tensor(places, torch.tensor([1.0, 2.0, 4.0]), (5, 6), check_invariants=True)
        group.allreduce([tensor]).wait()
        return tensor

    for result in ranks.run(2, body):
        assert result.indices().tolist() == [[0, 0, 1, 4], [0, 1, 0, 5]]
        assert result.values().tolist() == [4.0, 2.0, 4.0, 4.0]


def test_several_tensors_in_one_call_count_as_their_sum(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[torch.Tensor]:
        pair = [sparse([rank], (4, 1), torch.float32, 1), sparse([3], (4, 1), torch.float32, 2)]
        group.allreduce(pair).wait()
        return pair

    one, other = (sparse([0], (1, 1), torch.float32, seed).to_dense().item() for seed in (1, 2))
    for pair in ranks.run(2, body):
        for result in pair:
            assert result.to_dense().reshape(-1).tolist() == [one, one, 0.0, 2 * other]


def test_results_are_bitwise_the_same_on_all_ranks(ranks: Any) -> None:
    """Of values that are no small integers, by either way."""

    def body(group: Any, rank: int) -> list[bytes]:
        found = []
        for count, rows in ((400, 500), (400, 100_000)):
            values = torch.randn(count, 64, generator=torch.Generator().manual_seed(rank)) * 10.0**rank
            tensor = torch.sparse_coo_tensor(
                torch.tensor([spread(rank, count, rows)]), values, (rows, 64), check_invariants=True
            )
            group.allreduce([tensor]).wait()
            found.append(np.asarray(tensor.values()).tobytes())
        return found

    first, *others = ranks.run(WORLD, body)
    assert all(other == first for other in others)


def test_only_the_union_goes_over_the_switch(ranks: Any) -> None:
    def body(group: Any, rank: int) -> int:
        tensor = sparse([5, 6, 90_000], (100_000, 100), torch.float32, rank)
        group.allreduce([tensor]).wait()
        return int(group.switch_counters()["bytes_sent"])

    for sent in ranks.run(2, body):
        assert 3 * 400 < sent < 3 * 400 + 2048  # the rows, and one message beforehand


def test_the_order_is_that_of_the_calls_among_others(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[float]:
        handles, tensors = [], []
        for step in range(6):
            tensor: torch.Tensor = torch.full((4,), float(step))
            if step % 2:
                tensor = tensor.to_sparse()
            tensors.append(tensor)
            handles.append(group.allreduce([tensor]))
        for handle in reversed(handles):
            handle.wait()
        return [float(tensor.to_dense()[0]) for tensor in tensors]

    assert ranks.run(2, body) == [[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]] * 2


def test_its_future_has_the_sum(ranks: Any) -> None:
    """As DistributedDataParallel takes it."""

    def body(group: Any, rank: int) -> list[float]:
        (tensor,) = group.allreduce([torch.ones(3).to_sparse()]).get_future().wait()
        found: list[float] = tensor.to_dense().tolist()
        return found

    assert ranks.run(2, body) == [[2.0, 2.0, 2.0]] * 2


def test_ranks_with_other_shapes_or_dtypes_hear_of_it(ranks: Any) -> None:
    def body(group: Any, rank: int) -> list[float]:
        for other in (torch.ones(3 + rank), torch.ones(3, dtype=torch.float64 if rank else torch.float32)):
            with pytest.raises(CollectiveMismatchError, match=r"rank \d has .*, but rank \d"):
                group.allreduce([other.to_sparse()]).wait()
        tensor = torch.ones(2).to_sparse()
        group.allreduce([tensor]).wait()
        found: list[float] = tensor.to_dense().tolist()
        return found

    assert ranks.run(2, body) == [[2.0, 2.0]] * 2


def test_a_rank_that_calls_with_a_dense_tensor_is_found_out(
    ranks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "PATIENCE", 0.1)

    def body(group: Any, rank: int) -> str:
        tensor = torch.ones(7)
        with pytest.raises(CollectiveMismatchError) as found:
            group.allreduce([tensor if rank else tensor.to_sparse()]).wait()
        return str(found.value)

    for text in ranks.run(2, body):
        assert text.count("goes over the switch") == 1 + text.count("row by row") == 2


def test_too_many_dimensions_are_refused(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        with pytest.raises(UsageError, match="13 dimensions"):
            group.allreduce([torch.ones([1] * 13).to_sparse()]).wait()

    ranks.run(2, body)


def test_a_group_that_ends_fails_what_is_in_flight(ranks: Any) -> None:
    """The other rank never comes."""
    ended = threading.Event()

    def body(group: Any, rank: int) -> None:
        if rank:
            ended.wait(20)
            return
        work = group.allreduce([torch.ones(2).to_sparse()])
        group.shutdown()
        ended.set()
        with pytest.raises(WorkerClosedError):
            work.wait()
        with pytest.raises(WorkerClosedError):
            group.allreduce([torch.ones(2).to_sparse()])

    ranks.run(2, body)


def test_what_gloo_refuses_is_still_refused(ranks: Any) -> None:
    def body(group: Any, rank: int) -> None:
        with pytest.raises(RuntimeError, match="allreduce of sparse tensors"):
            group.allreduce([torch.ones(2).to_sparse()], dist.ReduceOp.MAX)

    ranks.run(2, body)
