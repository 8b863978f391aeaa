"""Sums of sparse tensors over the switch, in proportion to the rows that any rank has.

    1. shapes and counts of rows are gathered (do all ranks mean the same?), and the rows themselves where they are few
    2. else these follow, as lists or as bits (row_union.py)
    3. the rows of the union are summed, or gathered and added by each rank where that moves fewer bytes

Each step follows from the one before, when other collectives of the group may have been called on some ranks and not on
others. So that the order is the same everywhere all the same, they have a job of their own and, on each rank, one thread.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from switchml.errors import CollectiveMismatchError, SwitchMLError, UsageError, WorkerClosedError
from switchml.torch_backend.membership import CLOSE_SECONDS, Membership
from switchml.torch_backend.ordered_tasks import OrderedTasks
from switchml.torch_backend.routing import Tensors
from switchml.torch_backend.row_union import Rows, gathers, hear, say, union
from switchml.torch_backend.tensors import for_reduction, for_transfer
from switchml.worker.work import Work

_DIMENSIONS = 12
_FEW = 224
_LISTED = 1 << 32  # rows that a number of `few` can be one of
_ALIKE = ["dtype", "sparse", "dimensions", "shape"]
_TOLD = np.dtype(  # a packet's payload
    [
        ("rows", np.int64), ("dtype", np.int64), ("sparse", np.int64), ("dimensions", np.int64),
        ("shape", np.int64, _DIMENSIONS), ("few", np.uint32, _FEW),
    ]
)  # fmt: skip
_NOTHING: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
_DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


class RowSum(NamedTuple):
    """An all-reduce of sparse tensors that is under way.

    Attributes:
        work: of it.
        result: the sum, coalesced, once `work` has ended well.
    """

    work: Work
    result: Callable[[], torch.Tensor]


class RowSums:
    """Of one group, on one rank.

    Args:
        join: makes the membership of the job; called by all ranks at their first sum, on a thread of its own.
    """

    def __init__(self, join: Callable[[], Membership]) -> None:
        self._join = join
        self._lock = threading.Lock()
        self._membership: Membership | None = None
        self._error: SwitchMLError | None = None
        self._under_way: weakref.WeakSet[Work] = weakref.WeakSet()
        self._ordered = OrderedTasks("switchml-rows")

    def allreduce(self, tensors: Sequence[torch.Tensor], timeout: float) -> RowSum:
        """Sum sparse COO tensors of one shape and dtype over all ranks.

        Args:
            tensors: of this rank; several count as their sum.
            timeout: deadline in seconds.
        """
        work = Work(None, f"allreduce of a sparse tensor of shape {tuple(tensors[0].shape)}", _NOTHING)
        found: list[torch.Tensor] = []
        deadline = time.monotonic() + timeout

        def run() -> None:
            try:
                membership = self._joined()
                with torch.no_grad():
                    own = sum(tensors[1:], tensors[0]).coalesce()
                    found.append(_Sum(membership, own, deadline).result())
            except Exception as error:
                work.finish(self._error or error)
            else:
                work.finish()

        with self._lock:
            if self._error is not None:
                raise self._error
            self._under_way.add(work)
            self._ordered.submit(run)
        return RowSum(work, partial(found.__getitem__, 0))

    def _joined(self) -> Membership:
        if self._error is not None:
            raise self._error
        if self._membership is None:
            membership = self._join()
            with self._lock:
                self._membership = membership
                error = self._error
            if error is not None:  # closed meanwhile
                membership.close()
                raise error
        return self._membership

    def counters(self) -> dict[str, int]:
        """This rank's counters on the switch."""
        return {} if self._membership is None else self._membership.counters()

    def abort(self, error: SwitchMLError) -> None:
        """Fail everything in flight and everything to come."""
        with self._lock:
            if self._error is None:
                self._error = error
            works = list(self._under_way)
        for work in works:
            work.finish(error)

    def close(self, timeout: float = CLOSE_SECONDS, *, linger: bool = True) -> None:
        """Leave the job; what is in flight fails. Idempotent. For the arguments see `Membership.close`."""
        self.abort(WorkerClosedError("the process group was shut down; create it anew"))
        if self._membership is not None:
            self._membership.close(timeout, linger=linger)
        self._ordered.close(timeout)


class _Sum:
    """One sum, step by step; each waits for the ranks.

    Args:
        own: of this rank, coalesced.
        deadline: of `time.monotonic`.
    """

    def __init__(self, membership: Membership, own: torch.Tensor, deadline: float) -> None:
        self._membership, self._deadline = membership, deadline
        self._own, self._values = own, own.values().contiguous()
        self._outer = own.shape[: own.sparse_dim()]
        self._rows = math.prod(self._outer)

    def result(self) -> torch.Tensor:
        """Of all ranks alike.

        Raises:
            CollectiveMismatchError: other ranks have another shape or dtype.
            CollectiveError: whatever else ended it.
        """
        mine = self._numbers()
        told = self._meet(mine)
        counts = [int(count) for count in told["rows"]]
        most, rows = max(counts), self._rows
        summed = Tensors.SUMMED.has([self._values], "sum")
        if most == rows and summed:
            return self._sum(mine, np.arange(rows))
        said = told["few"]
        if most > _FEW or rows > _LISTED:
            said = self._gather(say(mine, most, rows))
        every = hear(said, counts, rows)
        those = union(every, rows)
        if summed and not gathers(counts, those.size):
            return self._sum(mine, those)
        return self._add(every, those, most)

    def _meet(self, mine: Rows) -> npt.NDArray[np.void]:
        """What the ranks tell of themselves first."""
        own = self._own
        if own.dim() > _DIMENSIONS:
            raise UsageError(f"a sparse tensor of {own.dim()} dimensions; at most {_DIMENSIONS} are taken")
        told = np.zeros((), _TOLD)
        told["rows"], told["dtype"], told["sparse"] = mine.size, _DTYPES.index(own.dtype), own.sparse_dim()
        told["shape"][: own.dim()], told["dimensions"] = own.shape, own.dim()
        told["few"][: mine.size] = mine[:_FEW]
        heard = self._gather(told.reshape(1).view(np.uint8)).view(_TOLD).reshape(-1)
        other = next((rank for rank, each in enumerate(heard) if each[_ALIKE] != told[_ALIKE]), None)
        if other is not None:
            raise CollectiveMismatchError(
                f"all-reduce of sparse tensors: rank {self._membership.rank} has {_described(told)}, but rank {other} "
                f"{_described(heard[other])}. All ranks must have the same shape and dtype"
            )
        return heard

    def _numbers(self) -> Rows:
        numbers = torch.zeros(self._values.shape[0], dtype=torch.int64)
        for size, index in zip(self._outer, self._own.indices(), strict=True):
            numbers = numbers * size + index
        return for_reduction(numbers, "sum").array

    def _gather(self, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return self._membership.worker().allgather(given, timeout=self._left(), notify=False).wait()

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _sum(self, mine: Rows, those: Rows) -> torch.Tensor:
        """Over the switch."""
        values, whole = self._values, those.size == mine.size
        total = torch.zeros((those.size, *values.shape[1:]), dtype=values.dtype)
        if not whole:
            total.index_copy_(0, _places(mine, those), values)
        given, taken = for_reduction(values if whole else total, "sum"), for_reduction(total, "sum")
        work = self._membership.worker().allreduce(
            given.array, "sum", out=taken.array, dtype=taken.dtype, timeout=self._left(), notify=False
        )
        work.wait()
        return self._sparse(those, total)

    def _add(self, every: Sequence[Rows], those: Rows, most: int) -> torch.Tensor:
        """By each rank, in the order of ranks."""
        shape = self._values.shape[1:]
        mine = torch.zeros((most, *shape), dtype=self._values.dtype)
        mine[: self._values.shape[0]] = self._values
        gathered = torch.empty((len(every), most, *shape), dtype=mine.dtype)
        for_transfer(gathered).array.reshape(len(every), -1)[...] = self._gather(for_transfer(mine).array)
        total = torch.zeros((those.size, *shape), dtype=mine.dtype)
        for numbers, values in zip(every, gathered, strict=True):
            total.index_add_(0, _places(numbers, those), values[: numbers.size])
        return self._sparse(those, total)

    def _sparse(self, those: Rows, values: torch.Tensor) -> torch.Tensor:
        numbers, indices = torch.from_numpy(those), []
        for size in reversed(self._outer):
            indices.append(numbers % size)
            numbers = numbers // size
        rows = torch.stack(indices[::-1]) if indices else torch.empty((0, those.size), dtype=torch.int64)
        return torch.sparse_coo_tensor(
            rows, values, self._own.shape, is_coalesced=True, check_invariants=False
        )


def _places(numbers: Rows, those: Rows) -> torch.Tensor:
    return torch.from_numpy(np.searchsorted(those, numbers))


def _described(told: npt.NDArray[np.void]) -> str:
    shape = tuple(map(int, told["shape"][: told["dimensions"]]))
    return f"shape {shape} with {told['sparse']} sparse dimensions, {_DTYPES[told['dtype']]}"
