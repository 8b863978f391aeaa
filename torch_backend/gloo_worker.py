"""Gloo in the place of a worker: for calls that the table sends there, but that gloo would not take as they are, and for all
calls of a group that has found no room on the switch.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceOptions,
    BarrierOptions,
    BroadcastOptions,
)
from typing_extensions import override

from switchml.errors import SwitchMLError
from switchml.torch_backend.gloo_group import GlooGroup
from switchml.torch_backend.reduction import WORKER_OPERATION
from switchml.torch_backend.routing import KNOWN_TO_GLOO
from switchml.worker.collectives import Call, Collectives
from switchml.worker.elements import BFLOAT16, reduce_rows
from switchml.worker.signature import root_of
from switchml.worker.work import Work

Array = np.ndarray[Any, Any]
_Started = tuple[dist.Work, Callable[[], None]]  # gloo's handle, and what is to be done when it has succeeded

_NOTHING: Array = np.empty(0, np.uint8)
_OPERATION = {name: kind for kind, name in WORKER_OPERATION.items()}


def _of_all(call: Call, mine: slice) -> Call:
    """A reduction of which this rank wants `mine` alone, as one of which it gets all."""
    every = call.source.copy()

    def finish() -> None:
        np.copyto(call.out, every[mine])
        call.finish()

    return replace(call, out=every, source=every, finish=finish)


class GlooWorker(Collectives):
    """A worker's collectives over gloo. Arrays are flat, so gloo sees no layout."""

    def __init__(self, gloo: GlooGroup, rank: int, world_size: int) -> None:
        self._gloo = gloo
        self._under_way: weakref.WeakSet[Work] = weakref.WeakSet()
        self.rank, self.world_size = rank, world_size
        self._start = {
            "allreduce": self._allreduce,
            "reduce": self._allreduce,
            "reduce_scatter": self._allreduce,
            "allgather": self._allgather,
            "broadcast": self._broadcast,
            "barrier": self._barrier,
        }

    @override
    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        said = call.signature
        if call.mine is not None:
            call = _of_all(call, call.mine)
        limit = None if timeout is None else timedelta(seconds=timeout)
        started, finish = self._start[said.collective](call, limit)
        return self.follow(started, f"{said.told()} over gloo", call.result, finish)

    @override
    def abort(self, error: SwitchMLError) -> None:
        """Gloo itself goes on until its timeout or its end."""
        for work in list(self._under_way):
            work.finish(error)

    def follow(
        self,
        started: dist.Work,
        what: str,
        result: Array = _NOTHING,
        finish: Callable[[], None] | None = None,
    ) -> Work:
        """Gloo's handle as one that `abort` can end.

        Args:
            started: of gloo.
            what: for messages.
            result: of the work.
            finish: called when gloo has succeeded.
        """
        work = Work(None, what, result)

        def end(future: Any) -> None:
            try:
                future.value()
                if finish is not None and not work.done():
                    finish()
            except Exception as error:
                work.finish(error)
            else:
                work.finish()

        self._under_way.add(work)
        started.get_future().add_done_callback(end)
        return work

    def _allreduce(self, call: Call, timeout: timedelta | None) -> _Started:
        said = call.signature
        is_bfloat16 = said.dtype == BFLOAT16
        tensor = torch.from_numpy(call.out.view(np.int16) if is_bfloat16 else call.out)
        if is_bfloat16:
            tensor = tensor.view(torch.bfloat16)
        if tensor.dtype not in KNOWN_TO_GLOO:
            return self._gathered(call, timeout)
        if call.out is not call.source:
            np.copyto(call.out, call.source)
        options = AllreduceOptions()
        options.reduceOp = dist.ReduceOp(_OPERATION[said.op])
        if timeout is not None:
            options.timeout = timeout

        def finish() -> None:
            if call.feedback:
                call.source[...] = 0
            call.finish()

        return self._gloo.group.allreduce([tensor], options), finish

    def _gathered(self, call: Call, timeout: timedelta | None) -> _Started:
        """A reduction by each rank: gloo does not know the dtype."""
        rows = np.empty((self.world_size, *call.source.shape), call.source.dtype)
        said = call.signature

        def finish() -> None:
            reduce_rows(rows, said.dtype, said.op, call.out)
            call.finish()

        return self._gather(call.source.view(np.uint8), rows.view(np.uint8), timeout), finish

    def _allgather(self, call: Call, timeout: timedelta | None) -> _Started:
        # As bytes: gloo does not know every dtype.
        return self._gather(call.source, call.out.reshape(self.world_size, -1), timeout), call.finish

    def _gather(self, source: Array, out: Array, timeout: timedelta | None) -> dist.Work:
        options = AllgatherOptions()
        if timeout is not None:
            options.timeout = timeout
        rows = [torch.from_numpy(row) for row in out]
        return self._gloo.group.allgather([rows], [torch.from_numpy(source)], options)

    def _broadcast(self, call: Call, timeout: timedelta | None) -> _Started:
        options = BroadcastOptions()
        options.rootRank = root_of(call.signature)
        if timeout is not None:
            options.timeout = timeout
        return self._gloo.group.broadcast([torch.from_numpy(call.out)], options), call.finish

    def _barrier(self, call: Call, timeout: timedelta | None) -> _Started:
        options = BarrierOptions()
        if timeout is not None:
            options.timeout = timeout
        return self._gloo.group.barrier(options), call.finish
