"""A rank's part in the sums of a model's buckets.

Over a short wire a bucket needs two collectives, and the second can only be submitted when the first is over: by then the next
bucket may have come on some ranks and not on others. So that the order is the same everywhere all the same, exponents go through
a job of their own, in the order of the hook's calls, and lanes through another, in the order of buckets on one thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy.typing as npt
import torch
from torch._C._distributed_c10d import PrefixStore, Store
from torch.futures import Future

from switchml.errors import UsageError
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.cuda.reductions import DeviceReductions, Flight, OpenStreams, cuda_streams
from switchml.torch_backend.hooks.lanes import Exponents, Wire
from switchml.torch_backend.hooks.ordered import OrderedTasks
from switchml.torch_backend.hooks.packed import PackedBucket
from switchml.torch_backend.hooks.promise import Promise
from switchml.torch_backend.membership import CLOSE_SECONDS, Membership
from switchml.torch_backend.options import Options
from switchml.torch_backend.tensors import for_reduction
from switchml.torch_backend.worker_port import OpenWorker, PendingCollective, join_switch

Array = npt.NDArray[Any]

_SCALES_WINDOW = 32  # slots of the job for exponents, which are few


class Session:
    """Jobs on the switch, and the state of each bucket. `average` is called from one thread at a time."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        *,
        wire: Wire | None,
        feedback: bool,
        seed: int,
        timeout: timedelta,
        options: Options,
        open_worker: OpenWorker = join_switch,
        open_streams: OpenStreams = cuda_streams,
    ) -> None:
        self._wire, self._feedback, self._seed = wire, feedback, [seed, rank]
        self._workers = world_size
        if wire is not None:
            wire.limit(world_size)  # says so now if it cannot work

        def join(name: str, options: Options) -> Membership:
            return Membership(
                PrefixStore(name, store),
                rank,
                world_size,
                group=f"hook-{name}",
                timeout=timeout,
                options=options,
                open_worker=open_worker,
            )

        self._join, self._options = join, options
        self._sums = join("sums", options)
        self._scales: Membership | None = None  # joined when there are exponents
        self.ordered = OrderedTasks("switchml-hook")
        self._buckets: dict[int, tuple[Hashable, PackedBucket]] = {}
        self.device = DeviceReductions(
            world_size,
            self._submit_exponents,
            self._submit,
            order=self.ordered,
            pool=lambda: self.pool,
            open_streams=open_streams,
        )

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

    @property
    def pool(self) -> CompletionPool:
        """Threads for whatever waits."""
        return self._sums.pool

    def counters(self) -> dict[str, int]:
        """Of all jobs together."""
        total = self._sums.counters()
        if self._scales is not None:
            for name, value in self._scales.counters().items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        for membership in (self._sums, self._scales):
            if membership is not None:
                membership.close()
        self.ordered.close(CLOSE_SECONDS)

    def _whole(self, buffer: torch.Tensor, promise: Promise[torch.Tensor]) -> None:
        flat = for_reduction(buffer, "avg")
        part = self._submit(flat.array, "avg", dtype=flat.dtype)

        def finish(_: Sequence[Array]) -> None:
            if flat.write_back is not None:
                flat.write_back()

        self._when_done([part], finish, buffer, promise)

    def _bucket(self, index: int, layout: Hashable, count: int) -> PackedBucket:
        known, bucket = self._buckets.get(index, (None, None))
        if bucket is None or known != layout or bucket.residual.size != count:
            assert self._wire is not None
            bucket = PackedBucket(self._wire, count, self._workers, [*self._seed, index], self._feedback)
            self._buckets[index] = layout, bucket
        return bucket

    def _packed(self, bucket: PackedBucket, buffer: torch.Tensor, promise: Promise[torch.Tensor]) -> None:
        gradient = buffer.detach().float().numpy()
        exponents = self._submit_exponents(bucket.exponents(gradient), "max")

        def send() -> None:
            try:
                agreed: Exponents = exponents.wait()
                exact = bucket.exact(agreed)
                parts = [self._submit(bucket.pack(agreed), "sum")]
                if exact.size:
                    parts.append(self._submit(exact, "avg"))
            except Exception as error:
                self.pool.submit(functools.partial(promise.fail, error))
                return

            def finish(results: Sequence[Array]) -> None:
                bucket.unpack(results[0], agreed, results[1] if exact.size else None, gradient)
                if gradient.ctypes.data != buffer.data_ptr():
                    buffer.copy_(torch.from_numpy(gradient))

            self._when_done(parts, finish, buffer, promise)

        self.ordered.submit(send)

    def _submit(self, array: Array, op: str, dtype: str | None = None) -> PendingCollective:
        return self._sums.worker().allreduce(array, op, dtype=dtype, timeout=self._sums.timeout)

    def _submit_exponents(self, array: Array, op: str) -> PendingCollective:
        if self._scales is None:
            self._scales = self._join("scales", replace(self._options, window=_SCALES_WINDOW))
        return self._scales.worker().allreduce(array, op, timeout=self._scales.timeout)

    def _when_done(
        self,
        parts: Sequence[PendingCollective],
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
        parts[-1].add_done_callback(lambda _: self.pool.submit(complete))

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
        return self.device.reduce(tensor, average=average, value=value)
