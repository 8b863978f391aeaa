"""Averages of a model's buckets over the ranks: in float32, rounded for a narrow wire, or from a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy.typing as npt
import torch
from torch.futures import Future

from switchml.errors import UsageError
from switchml.protocol.messages import FLOAT32
from switchml.torch_backend.cuda.reductions import DeviceReductions, Flight, OpenStreams, cuda_streams
from switchml.torch_backend.hooks.rounded import RoundedBucket
from switchml.torch_backend.job_pair import JobPair
from switchml.torch_backend.promise import Promise
from switchml.torch_backend.tensors import for_reduction, memory_of

Array = npt.NDArray[Any]


class Averager:
    """The state of each bucket of one rank. `average` is called from one thread at a time.

    Args:
        jobs: closed with this.
        feedback: on a narrow wire: add what rounding took to the bucket's next gradient.
        seed: of the stochastic rounding on a narrow wire.
    """

    def __init__(
        self, jobs: JobPair, *, feedback: bool, seed: int, open_streams: OpenStreams = cuda_streams
    ) -> None:
        self._jobs, self._feedback, self._seed = jobs, feedback, seed
        self._buckets: dict[int, tuple[Hashable, RoundedBucket]] = {}
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
        if self._jobs.wire == FLOAT32:
            flat = for_reduction(buffer, "avg")
            self._reduce(buffer, flat.array, flat.write_back, promise, dtype=flat.dtype)
        else:
            self._rounded(self._bucket(index, layout, buffer.numel()), buffer, promise)
        return promise.future

    def counters(self) -> dict[str, int]:
        """This rank's counters on the switch."""
        return self._jobs.counters()

    def close(self) -> None:
        """Leave the switch; buckets in flight fail. Idempotent."""
        self._jobs.close()

    def _bucket(self, index: int, layout: Hashable, count: int) -> RoundedBucket:
        known, bucket = self._buckets.get(index, (None, None))
        if bucket is None or known != layout or bucket.count != count:
            bucket = RoundedBucket(count, [self._seed, self._jobs.rank, index], self._feedback)
            self._buckets[index] = layout, bucket
        return bucket

    def _rounded(self, bucket: RoundedBucket, buffer: torch.Tensor, promise: Promise[torch.Tensor]) -> None:
        average = buffer.detach().float()
        gradient = memory_of(average)

        def copy_back() -> None:
            buffer.copy_(average)

        back = None if average.data_ptr() == buffer.data_ptr() else copy_back
        values, rounding = bucket.next_step(gradient)
        self._reduce(buffer, values, back, promise, out=gradient, rounding=rounding)

    def _reduce(
        self,
        buffer: torch.Tensor,
        values: Array,
        write_back: Callable[[], None] | None,
        promise: Promise[torch.Tensor],
        **options: Any,
    ) -> None:
        """Submit the average of `values`; once it is there, `write_back`, and the promise of `buffer` is kept."""
        work = self._jobs.reduce_values(values, "avg", **options)

        def complete() -> None:
            try:
                work.wait()
                if write_back is not None:
                    write_back()
            except Exception as error:
                promise.fail(error)
            else:
                promise.keep(buffer)

        # Not on the worker's own thread, which must go on moving packets.
        work.add_done_callback(lambda _: self._jobs.pool.submit(complete))

    def reduce_on_device(self, tensor: torch.Tensor, *, average: bool, value: Any) -> Flight:
        """See `DeviceReductions.reduce`.

        Raises:
            UsageError: the wire is a narrow one.
            SwitchMLError: a reduction before this one failed.
        """
        if self._jobs.wire != FLOAT32:
            raise UsageError(
                f"the wire {self._jobs.wire!r} takes gradients on the CPU; give wire='float32' for those on a GPU"
            )
        return self._reductions.reduce(tensor, average=average, value=value)
