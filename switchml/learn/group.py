"""Who fits a model together, and what they tell each other: sums in float64, and arrays."""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import platform
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from switchml.errors import CollectiveMismatchError
from switchml.launchers import Started, started_by
from switchml.variables import take_configuration

if TYPE_CHECKING:
    from switchml.worker import Worker

Array = npt.NDArray[Any]

GATHERED_BYTES = 256 << 10
"""Sums up to this size (bytes times ranks) are gathered and added in float64; larger ones go as integers."""
BLOCK = 1024
"""Elements with one exponent among the larger sums."""
_TIMEOUT = 1800.0  # seconds for a rank's pass over its data, torch's own for a collective
_NOT_FINITE = 1 << 20  # an exponent that no number has


@dataclass(frozen=True)
class Group:
    """The ranks that fit one model, of which this process is one.

    Attributes:
        rank: of this process.
        size: ranks.
        allreduce: of a float64 or int32 array, "sum" or "max": the same bits on all ranks. The array may be overwritten.
        allgather: of a uint8 array, equally long on all ranks: (size, length).
    """

    rank: int
    size: int
    allreduce: Callable[[Array, str], Array]
    allgather: Callable[[Array], Array]

    def total(self, values: Array, agreed: bytes = b"", starts: Sequence[int] = ()) -> Array:
        """The sum over all ranks, the same bits on each.

        Small ones are added exactly as float64 does it, in the order of ranks. Of others a rank's element x travels as two
        int32, and counts as a multiple of 2^(e - 2b), to the nearest, with |x| < 2^e for the largest of `BLOCK` elements on
        any rank and b = 30 - ceil(log2 size); so a sum is off by at most size / 2 of these units.

        Args:
            values: float64 (n,).
            agreed: what the ranks must have in common, down to the bits, for the sum to mean anything.
            starts: where other quantities begin, which get blocks of their own: else the largest would round the others away.

        Raises:
            CollectiveMismatchError: they do not.
        """
        if self.size == 1:
            return values
        mark = zlib.crc32(agreed) >> 1
        if values.nbytes * self.size <= GATHERED_BYTES:
            sums = self.allreduce(np.append(values, mark), "sum")
            summed, same = sums[:-1], bool(sums[-1] == mark * self.size)
        else:
            summed, same = self._as_integers(values, mark, starts)
        if not same:
            raise CollectiveMismatchError(
                f"rank {self.rank} and others do not fit the same model any more: call fit with the same parameters on all "
                "ranks, and give them processors of one kind, on which the optimizer rounds alike"
            )
        return summed

    def _as_integers(self, values: Array, mark: int, starts: Sequence[int]) -> tuple[Array, bool]:
        parts = np.split(values, starts)
        blocks = np.concatenate([np.pad(part, (0, -part.size % BLOCK)) for part in parts]).reshape(-1, BLOCK)
        largest = np.abs(blocks).max(1)
        finite = np.isfinite(largest)
        exponents = np.where(finite, np.frexp(np.where(finite, largest, 0))[1], _NOT_FINITE)
        exponents[largest == 0] = -_NOT_FINITE  # frexp's 0 would be above others' small numbers
        tops = self.allreduce(np.append(exponents, [mark, -mark]).astype(np.int32), "max")
        common, (highest, lowest) = tops[:-2, None].astype(np.int64), tops[-2:]
        broken = common == _NOT_FINITE
        blocks[broken[:, 0]] = 0
        bits = 30 - (self.size - 1).bit_length()
        high = np.ldexp(blocks, np.where(broken, 0, bits - common))
        low = high.copy()
        np.rint(high, out=high)
        low -= high
        words = np.stack([high, np.rint(np.ldexp(low, bits))]).astype(np.int32)
        high, low = self.allreduce(words, "sum").astype(np.float64)
        high += np.ldexp(low, -bits)
        sums = np.ldexp(high, np.where(broken, 0, common - bits))
        sums[broken[:, 0]] = np.nan
        ends = np.cumsum([-(-part.size // BLOCK) for part in parts])[:-1]
        summed = [
            rows.reshape(-1)[: part.size] for rows, part in zip(np.split(sums, ends), parts, strict=True)
        ]
        return np.concatenate(summed), bool(highest == -lowest == mark)

    def gather(self, array: Array) -> list[Array]:
        """Every rank's array, of whatever shape and dtype but objects."""
        if self.size == 1:
            return [array]
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        raw = np.frombuffer(file.getbuffer(), np.uint8)
        lengths = self.allgather(np.array([raw.size]).view(np.uint8)).copy().view(np.int64)[:, 0]
        padded = np.zeros(lengths.max(), np.uint8)
        padded[: raw.size] = raw
        rows = self.allgather(padded)
        return [
            np.load(io.BytesIO(row[:length].tobytes()), allow_pickle=False)
            for row, length in zip(rows, lengths, strict=True)
        ]

    def of_first(self, array: Array) -> Array:
        """Rank 0's array."""
        return self.gather(array if self.rank == 0 else array[:0])[0]

    def threads(self) -> int:
        """How many a rank may have where several share the cores. Called by all ranks."""
        mine = sorted(os.sched_getaffinity(0))
        places = self.gather(np.array(f"{platform.node()} {mine}"))
        return max(1, len(mine) // sum(bool(place == places[self.rank]) for place in places))

    @contextlib.contextmanager
    def sharing_cores(self) -> Iterator[None]:
        """While it lasts, this process's linear algebra takes its share of the cores. To be entered by all ranks.

        OMP_NUM_THREADS counts instead, but for 1, which launchers set for every rank whatever cores there are.
        """
        if self.size == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
            yield
            return
        with threadpool_limits(self.threads()):
            yield


def _lonely(array: Array, *_: str) -> Array:
    return array


ALONE = Group(0, 1, _lonely, _lonely)


def of_worker(worker: Worker) -> Group:
    """All ranks of a worker's job."""
    return Group(
        worker.rank,
        worker.world_size,
        lambda array, op: worker.allreduce(array, op, notify=False).wait(),
        lambda array: worker.allgather(array, notify=False).wait(),
    )


def of_process_group(process_group: Any = None) -> Group:
    """All ranks of a torch process group, of whatever backend for tensors on CPUs.

    Args:
        process_group: None for the default group.
    """
    import torch
    from torch import distributed

    size = distributed.get_world_size(process_group)

    def allreduce(array: Array, op: str) -> Array:
        operation = {"sum": distributed.ReduceOp.SUM, "max": distributed.ReduceOp.MAX}[op]
        distributed.all_reduce(torch.from_numpy(array), operation, process_group)
        return array

    def allgather(array: Array) -> Array:
        rows = np.empty((size, array.size), np.uint8)
        distributed.all_gather(list(torch.from_numpy(rows)), torch.from_numpy(array), process_group)
        return rows

    return Group(distributed.get_rank(process_group), size, allreduce, allgather)


_chosen: ContextVar[Group | None] = ContextVar("_chosen", default=None)
_joined: Group | None = None
_lock = threading.Lock()


@contextlib.contextmanager
def over(ranks: Any) -> Iterator[None]:
    """Models in this block are fitted by these ranks.

    Args:
        ranks: a `Worker`, a torch process group, or None for this process alone.
    """
    group = ALONE
    if ranks is not None:
        group = of_worker(ranks) if hasattr(ranks, "world_size") else of_process_group(ranks)
    token = _chosen.set(group)
    try:
        yield
    finally:
        _chosen.reset(token)


def current() -> Group:
    """Who fits: what `over` says, else torch's default group, else the ranks that a launcher started, else this process alone.

    Processes that a rank has started, as joblib's, are alone.

    Raises:
        SwitchMLError: the ranks that a launcher started do not come together.
    """
    global _joined
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return of_process_group()
    started = None if multiprocessing.parent_process() else started_by(os.environ)
    if started is None or started.size == 1:
        return ALONE
    with _lock:
        if _joined is None:
            _joined = _join(started)
        return _joined


def _join(started: Started) -> Group:
    take_configuration()
    switch = os.environ.get("SWITCHML_SWITCH", "").strip()
    if not switch:
        # torch's backend starts switches where there is none.
        from torch import distributed

        distributed.init_process_group("switchml")
        atexit.register(lambda: distributed.is_initialized() and distributed.destroy_process_group())
        return of_process_group()
    from switchml.worker import Worker

    run = (
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "MASTER_PORT",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        "PMIX_NAMESPACE",
    )
    worker = Worker.join(
        switch,
        job="-".join(["learn", *(os.environ[name] for name in run if name in os.environ)]),
        rank=started.rank,
        world_size=started.size,
        transport=os.environ.get("SWITCHML_TRANSPORT", "").strip() or "auto",
        payload=int(os.environ.get("SWITCHML_PAYLOAD", "").strip() or 0),
        window=int(os.environ.get("SWITCHML_WINDOW", "").strip() or 0),
        timeout=_TIMEOUT,
    )
    atexit.register(worker.leave)
    return of_worker(worker)
