"""Gloo in the place of a worker: for calls that the table sends there, but that gloo would not take as they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions, AllreduceOptions, Work

from switchml.torch_backend.gloo_group import GlooGroup
from switchml.torch_backend.reduction import WORKER_OPERATION

Array = np.ndarray[Any, Any]

_OPERATION = {name: kind for kind, name in WORKER_OPERATION.items()}


class GlooPending:
    """A collective of gloo in flight, and the array that its result lies in."""

    def __init__(self, work: Work, result: Array) -> None:
        self._work = work
        self._result = result

    def wait(self, timeout: float | None = None) -> Array:
        if timeout is None:
            self._work.wait()
        elif not self._work.is_completed():
            # 0 would mean: as long as the group's timeout.
            self._work.wait(max(timedelta(seconds=timeout), timedelta(milliseconds=1)))
        else:
            self._work.wait()
        return self._result

    def done(self) -> bool:
        return self._work.is_completed()

    def exception(self) -> BaseException | None:
        try:
            self._work.wait()
        except Exception as error:
            return error
        return None

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        self._work.get_future().add_done_callback(lambda _: fn(self))


class GlooWorker:
    """The part of `CollectiveWorker` that the table can send to gloo. Arrays are flat, so gloo sees no layout."""

    def __init__(self, gloo: GlooGroup, world_size: int) -> None:
        self._gloo = gloo
        self._world_size = world_size

    def allreduce(
        self,
        array: Array,
        op: str = "sum",
        *,
        out: Array | None = None,
        dtype: str | None = None,
        timeout: float | None = None,
        notify: bool = True,
    ) -> GlooPending:
        target = array
        if out is not None:
            np.copyto(out, array)
            target = out
        tensor = torch.from_numpy(target if dtype is None else target.view(np.int16))
        if dtype is not None:
            tensor = tensor.view(getattr(torch, dtype))
        options = AllreduceOptions()
        options.reduceOp = dist.ReduceOp(_OPERATION[op])
        if timeout is not None:
            options.timeout = timedelta(seconds=timeout)
        return GlooPending(self._gloo.group.allreduce([tensor], options), target)

    def allgather(
        self, array: Array, *, out: Array | None = None, timeout: float | None = None, notify: bool = True
    ) -> GlooPending:
        result = np.empty((self._world_size, *array.shape), array.dtype) if out is None else out
        options = AllgatherOptions()
        if timeout is not None:
            options.timeout = timedelta(seconds=timeout)
        # As bytes: gloo does not know every dtype.
        rows = [torch.from_numpy(row.view(np.uint8)) for row in result]
        work = self._gloo.group.allgather([rows], [torch.from_numpy(array.view(np.uint8))], options)
        return GlooPending(work, result)
