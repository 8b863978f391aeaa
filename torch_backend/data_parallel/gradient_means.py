"""Averages gradients over the ranks at the end of every `backward`, in buckets that go while it runs.

At the end of backward, not before the step: what the script does in between (clipping, unscaling, printing a norm) sees the
average. It may add up over several backwards, since an average stays what it is when it is averaged again.

Ranks may differ in which parameters a backward reaches. So all bring the same buckets, those of the set that followed last time
upon the set of the backward before, with zeros for what was not reached; then they count who reached what; then comes what was
not foreseen.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.weak import WeakIdKeyDictionary

from switchml.errors import UsageError
from switchml.torch_backend.data_parallel.step_times import StepTimes

BUCKET_BYTES = 4 << 20


@dataclass(frozen=True)
class _Entry:
    """What travels of one item: fixed when ranks last had it in common, whatever has become of it on one of them."""

    number: int
    size: int
    dtype: torch.dtype
    statistics: bool  # which no hook tells of, so that they go last


@dataclass
class _Bucket:
    """Values that travel together: `places` maps a number to its place in `flat`."""

    flat: torch.Tensor
    places: dict[int, slice]
    waiting: set[int]
    work: Any = None

    def put(self, number: int, value: torch.Tensor | None) -> None:
        part = self.flat[self.places[number]]
        if value is None:
            part.zero_()
        else:
            part.copy_(value.detach().reshape(-1))
        self.waiting.discard(number)

    def launch(self) -> None:
        self.work = dist.all_reduce(self.flat, async_op=True)


@dataclass
class _Backward:
    """One that is under way."""

    reached: set[int] = field(default_factory=set)
    buckets: list[_Bucket] = field(default_factory=list)
    bucket_of: dict[int, _Bucket] = field(default_factory=dict)
    launched: int = 0


class GradientMeans:
    """Of one rank. Parameters and batch norms are numbered as they come, alike on all ranks.

    Args:
        times: where waiting for the ranks' sums is added up.

    Attributes:
        split: whether the batches of now are.
        weight: of what the next backward finds here, where 1 is the ranks' average.
        active: whether ranks have different batches at all.
        backwards: that have ended so far.
    """

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self.weight = 1.0
        self.split = False
        self._told = False
        self.active = False
        self.backwards = 0
        self._world_size = 1
        self._items: list[weakref.ref[Any]] = []
        self._numbers: Any = WeakIdKeyDictionary()
        self._hooked: Any = WeakIdKeyDictionary()
        self._versions: dict[int, int] = {}
        self._averaged: Any = WeakIdKeyDictionary()
        self._backward: _Backward | None = None
        self._last: tuple[int, ...] = ()
        self._next: dict[tuple[int, ...], list[_Entry]] = {}

    def start(self, world_size: int) -> None:
        """Ranks have different batches from now on."""
        self._world_size, self.active = world_size, True

    def add(self, parameters: Iterable[torch.Tensor]) -> None:
        """Numbers those that are new, and follows those that have gradients."""
        for parameter in parameters:
            if parameter not in self._numbers:
                self._number(parameter)
            if parameter.requires_grad and parameter not in self._hooked:
                self._hooked[parameter] = True
                self._follow(parameter, self._numbers[parameter])

    def add_norm(self, norm: _NormBase) -> None:
        """Numbers the running statistics of a batch norm, once it has them."""
        for statistics in (norm.running_mean, norm.running_var):
            if statistics is not None and statistics not in self._numbers:
                self._versions[self._number(statistics)] = statistics._version

    def alive(self) -> dict[int, torch.Tensor]:
        """Parameters and statistics by number."""
        found = {number: reference() for number, reference in enumerate(self._items)}
        return {number: value for number, value in found.items() if value is not None}

    @property
    def unfinished(self) -> bool:
        """Whether a backward has begun that did not come to its end."""
        return self._backward is not None

    def was_averaged(self, parameter: torch.Tensor) -> bool:
        """Whether a gradient of it ever came here."""
        return parameter in self._averaged

    def _number(self, value: torch.Tensor) -> int:
        number = self._numbers[value] = len(self._items)
        self._items.append(weakref.ref(value))
        return number

    def _follow(self, parameter: torch.Tensor, number: int) -> None:
        def weigh(gradient: torch.Tensor) -> torch.Tensor | None:
            if self.active and torch.is_grad_enabled():
                raise UsageError(
                    "--data-parallel cannot average gradients of gradients: backward(create_graph=True) reaches a parameter"
                )
            backward = self._backward
            # Once more in one backward, as under reentrant checkpoints, while the first one travels.
            if backward is not None and number in backward.reached:
                self._finish()
            if not self.active or self.weight == 1:
                return None
            # Not a product with 0: what a sample that does not count gives may be NaN.
            return gradient * self.weight if self.weight else torch.zeros_like(gradient)

        parameter.register_hook(weigh)
        parameter.register_post_accumulate_grad_hook(lambda reached: self._reached(number, reached))

    def _reached(self, number: int, parameter: torch.Tensor) -> None:
        if not self.active:
            return
        assert parameter.grad is not None
        if parameter.grad.layout != torch.strided:
            raise UsageError(
                "--data-parallel averages dense gradients: leave sparse=True of an embedding out"
            )
        if parameter.grad.device.type != "cpu":
            raise UsageError(
                f"--data-parallel averages gradients on the CPU, and this one is on {parameter.grad.device}; "
                "DistributedDataParallel trains on several GPUs"
            )
        if self._backward is None:
            self._backward = self._begin()
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self._finish)
        backward = self._backward
        backward.reached.add(number)
        bucket = backward.bucket_of.get(number)
        if bucket is not None:
            bucket.put(number, parameter.grad)
            # In order, since all ranks must call the same collectives one after the other.
            while (
                backward.launched < len(backward.buckets) and not backward.buckets[backward.launched].waiting
            ):
                backward.buckets[backward.launched].launch()
                backward.launched += 1

    def _begin(self) -> _Backward:
        backward = _Backward(buckets=_pack(self._next.get(self._last, [])))
        backward.bucket_of = {number: each for each in backward.buckets for number in each.places}
        return backward

    def _finish(self) -> None:
        backward, self._backward = self._backward, None
        if backward is None:
            return
        alive = self.alive()
        reached = backward.reached | self._moved(alive)
        self._send(backward.buckets[backward.launched :], alive)
        counts = torch.zeros(len(self._items), dtype=torch.int32)
        counts[sorted(reached)] = 1
        with self._times.waiting("network"):
            dist.all_reduce(counts)
        union = tuple(counts.nonzero().view(-1).tolist())
        entries = [
            _Entry(number, alive[number].numel(), alive[number].dtype, number in self._versions)
            for number in union
        ]
        late = _pack([entry for entry in entries if entry.number not in backward.bucket_of])
        self._send(late, alive)
        wanted = set(union)
        for bucket in (*backward.buckets, *late):
            with self._times.waiting("network"):
                bucket.work.wait()
            for number in bucket.places.keys() & wanted:
                self._write(number, alive[number], bucket.flat[bucket.places[number]])
        self._next[self._last], self._last = entries, union
        self.backwards += 1
        if not self.split and not self._told and dist.get_rank() == 0:
            self._told = True
            print(
                "switchml: what trains here is not split, each worker does all of it: it comes from no DataLoader, or the model "
                "was in eval mode when its loop began (call model.train() before the loop)",
                file=sys.stderr,
                flush=True,
            )

    def _send(self, buckets: Sequence[_Bucket], alive: dict[int, torch.Tensor]) -> None:
        for bucket in buckets:
            for number in list(bucket.waiting):
                bucket.put(number, self._value(number, alive.get(number)))
            bucket.launch()

    def _value(self, number: int, item: torch.Tensor | None) -> torch.Tensor | None:
        """What this rank brings of an item that its backward did not reach, or of statistics."""
        if item is None:
            return None
        return item * self.weight if number in self._versions else item.grad

    def _moved(self, alive: dict[int, torch.Tensor]) -> set[int]:
        """Statistics that forward has changed since they were averaged."""
        return {
            number
            for number, version in self._versions.items()
            if number in alive and alive[number]._version != version
        }

    def _write(self, number: int, item: torch.Tensor, summed: torch.Tensor) -> None:
        mean = summed.div_(self._world_size).view(item.shape)
        with torch.no_grad():
            if number in self._versions:
                item.copy_(mean)
                self._versions[number] = item._version
            elif item.grad is None:
                item.grad = mean.clone()
            else:
                item.grad.copy_(mean)
        self._averaged[item] = True


def _pack(entries: Sequence[_Entry]) -> list[_Bucket]:
    """Buckets of one dtype each, the last number first as backward goes."""
    rows: dict[tuple[bool, torch.dtype], list[list[_Entry]]] = {}
    filled: dict[tuple[bool, torch.dtype], int] = {}
    for entry in sorted(entries, key=lambda entry: (entry.statistics, -entry.number)):
        kind, size = (entry.statistics, entry.dtype), entry.size * entry.dtype.itemsize
        if kind not in rows or filled[kind] + size > BUCKET_BYTES:
            rows.setdefault(kind, []).append([])
            filled[kind] = 0
        rows[kind][-1].append(entry)
        filled[kind] += size
    return [_bucket(row) for of_kind in rows.values() for row in of_kind]


def _bucket(entries: Sequence[_Entry]) -> _Bucket:
    places, end = {}, 0
    for entry in entries:
        places[entry.number] = slice(end, end + entry.size)
        end += entry.size
    return _Bucket(torch.empty(end, dtype=entries[0].dtype), places, set(places))
