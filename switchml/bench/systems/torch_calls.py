"""Single calls of torch.distributed over one of its backends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from typing_extensions import override

from switchml.bench.systems.catalogue import Place
from switchml.bench.systems.ddp import DdpTraining
from switchml.bench.verification import Array


class EmbeddingGradients(DdpTraining):
    """One rank that all-reduces the gradient of an embedding. The buffer's elements: rows that it has looked up, at random.

    Options: backend, rows, columns, sparse, timeout, and those of `DdpTraining` for the backend "switchml".
    """

    @override
    def prepare(self, place: Place) -> None:
        self._place = place
        self._gradients: dict[int, torch.Tensor] = {}

    def _gradient(self, count: int) -> torch.Tensor:
        if count not in self._gradients:
            options = self._place.options
            rows, columns = options["rows"], options["columns"]
            generator = torch.Generator().manual_seed(1000 * count + self._place.rank)
            indices = torch.randperm(rows, generator=generator)[:count].sort().values
            values = torch.randn(count, columns, generator=generator)
            gradient = torch.sparse_coo_tensor(indices[None], values, (rows, columns)).coalesce()
            self._gradients = {count: gradient if options["sparse"] else gradient.to_dense()}
        return self._gradients[count]

    @override
    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        gradient = self._gradient(buffer.size)
        # The same rows each time: a sum in place would have those of all ranks from the second time on.
        dist.all_reduce(gradient.clone())


class ShardedTensors(DdpTraining):
    """One rank that gathers and scatters a tensor, the buffer's elements in all, as FSDP does.

    Options: backend, call (of `CALLS`), timeout, and those of `DdpTraining` for the backend "switchml".
    """

    @override
    def prepare(self, place: Place) -> None:
        self._rank, self._world_size = place.rank, place.world_size
        self._call = CALLS[place.options["call"]]
        self._whole = torch.empty(0)

    @override
    def counters(self) -> dict[str, int]:
        group: Any = dist.group.WORLD
        counters: dict[str, int] = group.switch_counters() if hasattr(group, "switch_counters") else {}
        return counters

    @override
    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        size = math.ceil(buffer.size / self._world_size) * self._world_size
        if self._whole.numel() != size:
            self._whole = torch.ones(size)
            self._gradient = torch.full((size,), 1.5)
            self._mine = torch.ones(size // self._world_size)
        for work in self._call(self._whole, self._gradient, self._mine):
            work.wait()


def _gather(whole: torch.Tensor, gradient: torch.Tensor, mine: torch.Tensor) -> list[dist.Work]:
    return [
        _handle(
            dist.all_gather_into_tensor(
                whole, whole.chunk(dist.get_world_size())[dist.get_rank()], async_op=True
            )
        )
    ]


def _scatter(whole: torch.Tensor, gradient: torch.Tensor, mine: torch.Tensor) -> list[dist.Work]:
    return [_handle(dist.reduce_scatter_tensor(mine, gradient, async_op=True))]


def _both(whole: torch.Tensor, gradient: torch.Tensor, mine: torch.Tensor) -> list[dist.Work]:
    return [*_gather(whole, gradient, mine), *_scatter(whole, gradient, mine)]


def _handle(work: dist.Work | None) -> dist.Work:
    assert work is not None
    return work


CALLS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], list[dist.Work]]] = {
    "all-gather": _gather,
    "reduce-scatter": _scatter,
    "both": _both,
}
"""What is measured, by name."""
