"""Averages of a model's buckets over the ranks: whole, in a short wire format, or from a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch.futures import Future

from switchml.errors import UsageError
from switchml.torch_backend.cuda.reductions import DeviceReductions, Flight, OpenStreams, cuda_streams
from switchml.torch_backend.hooks.lanes import Exponents, Wire
from switchml.torch_backend.hooks.packed import PackedBucket
from switchml.torch_backend.job_pair import JobPair
from switchml.torch_backend.promise import Promise
from switchml.torch_backend.tensors import for_reduction, memory_of
from switchml.worker.work import Work

Array = npt.NDArray[Any]


class Averager:
    """The state of each bucket of one rank. `average` is called from one thread at a time.

    Args:
        jobs: closed with this.
        wire: None = float32, by block floating point on the switch.
        feedback: with a short wire: add what rounding took to the bucket's next gradient.
        seed: of the stochastic rounding.

    Raises:
        UsageError: the wire is too short for so many ranks.
    """

    def __init__(
        self,
        jobs: JobPair,
        *,
        wire: Wire | None,
        feedback: bool,
        seed: int,
        open_streams: OpenStreams = cuda_streams,
    ) -> None:
        if wire is not None:
            wire.limit(jobs.world_size)
        self._jobs, self._wire, self._feedback, self._seed = jobs, wire, feedback, [seed, jobs.rank]
        self._buckets: dict[int, tuple[Hashable, PackedBucket]] = {}
        self._reductions = DeviceReductions(jobs, open_streams)

    def average(self, index: int, layout: Hashable, buffer: torch.Tensor) -> Future[torch.Tensor]:
        """Average a bucket over the ranks, in place.

        Args:
            index: of the bucket.
            layout: what must be the same for what is kept of the last step to be this bucket's.
            buffer: dense, one-dimensional, floating point; must be left alone until the future is done.
        """
        if buffer.is_cuda:
            return self.reduce_on_device(buffer, average=True, value=buffer).future
        promise: Promise[torch.Tensor] = Promise()
        if self._wire is None:
            self._whole(buffer, promise)
        else:
            self._packed(self._bucket(index, layout, buffer.numel()), buffer, promise)
        return promise.future

    def counters(self) -> dict[str, int]:
        """This rank's counters on the switch."""
        return self._jobs.counters()

    def close(self) -> None:
        """Leave the switch; buckets in flight fail. Idempotent."""
        self._jobs.close()

    def _whole(self, buffer: torch.Tensor, promise: Promise[torch.Tensor]) -> None:
        flat = for_reduction(buffer, "avg")
        part = self._jobs.reduce_values(flat.array, "avg", dtype=flat.dtype)

        def finish(_: Sequence[Array]) -> None:
            if flat.write_back is not None:
                flat.write_back()

        self._when_done([part], finish, buffer, promise)

    def _bucket(self, index: int, layout: Hashable, count: int) -> PackedBucket:
        known, bucket = self._buckets.get(index, (None, None))
        if bucket is None or known != layout or bucket.residual.size != count:
            assert self._wire is not None
            bucket = PackedBucket(
                self._wire, count, self._jobs.world_size, [*self._seed, index], self._feedback
            )
            self._buckets[index] = layout, bucket
        return bucket

    def _packed(self, bucket: PackedBucket, buffer: torch.Tensor, promise: Promise[torch.Tensor]) -> None:
        gradient = memory_of(buffer.detach().float())
        exponents = self._jobs.reduce_exponents(bucket.exponents(gradient), "max")

        def send() -> None:
            try:
                agreed: Exponents = exponents.wait()
                exact = bucket.exact(agreed)
                parts = [self._jobs.reduce_values(bucket.pack(agreed), "sum")]
                if exact.size:
                    parts.append(self._jobs.reduce_values(exact, "avg"))
            except Exception as error:
                self._jobs.pool.submit(functools.partial(promise.fail, error))
                return

            def finish(results: Sequence[Array]) -> None:
                bucket.unpack(results[0], agreed, results[1] if exact.size else None, gradient)
                if gradient.ctypes.data != buffer.data_ptr():
                    buffer.copy_(torch.from_numpy(gradient))

            self._when_done(parts, finish, buffer, promise)

        self._jobs.ordered.submit(send)

    def _when_done(
        self,
        parts: Sequence[Work],
        finish: Callable[[Sequence[Array]], None],
        buffer: torch.Tensor,
        promise: Promise[torch.Tensor],
    ) -> None:
        """Once `parts`, of one job, are over: `finish` with their results, and the promise is kept."""

        def complete() -> None:
            try:
                finish([part.wait() for part in parts])
            except Exception as error:
                promise.fail(error)
            else:
                promise.keep(buffer)

        # The parts end in order. Not on the worker's own thread, which must go on moving packets.
        parts[-1].add_done_callback(lambda _: self._jobs.pool.submit(complete))

    def reduce_on_device(self, tensor: torch.Tensor, *, average: bool, value: Any) -> Flight:
        """See `DeviceReductions.reduce`.

        Raises:
            UsageError: the wire is a short one.
            SwitchMLError: a reduction before this one failed.
        """
        if self._wire is not None:
            raise UsageError(
                f"the wire {self._wire.name!r} takes gradients on the CPU; give wire='float32' for those on a GPU"
            )
        return self._reductions.reduce(tensor, average=average, value=value)
