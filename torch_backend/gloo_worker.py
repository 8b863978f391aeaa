"""Gloo in the place of a worker: for calls that the table sends there, but that gloo would not take as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions, AllreduceOptions
from typing_extensions import override

from switchml.errors import SwitchMLError
from switchml.torch_backend.gloo_group import GlooGroup
from switchml.torch_backend.reduction import WORKER_OPERATION
from switchml.worker.collectives import Call, Collectives
from switchml.worker.elements import BFLOAT16
from switchml.worker.work import Work

Array = np.ndarray[Any, Any]

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
    """The collectives that the table can send to gloo. Arrays are flat, so gloo sees no layout."""

    def __init__(self, gloo: GlooGroup, rank: int, world_size: int) -> None:
        self._gloo = gloo
        self._under_way: weakref.WeakSet[Work] = weakref.WeakSet()
        self.rank, self.world_size = rank, world_size
        self._start = {
            "allreduce": self._allreduce,
            "reduce": self._allreduce,
            "reduce_scatter": self._allreduce,
            "allgather": self._allgather,
        }

    @override
    def _submit(self, call: Call, timeout: float | None, notify: bool) -> Work:
        said = call.signature
        if call.mine is not None:
            call = _of_all(call, call.mine)
        limit = None if timeout is None else timedelta(seconds=timeout)
        started = self._start[said.collective](call, limit)
        what = f"{said.collective} of {said.elements} x {said.dtype} over gloo"
        return self.follow(started, what, call.result, call.finish)

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

    def _allreduce(self, call: Call, timeout: timedelta | None) -> dist.Work:
        if call.out is not call.source:
            np.copyto(call.out, call.source)
        is_bfloat16 = call.signature.dtype == BFLOAT16
        tensor = torch.from_numpy(call.out.view(np.int16) if is_bfloat16 else call.out)
        options = AllreduceOptions()
        options.reduceOp = dist.ReduceOp(_OPERATION[call.signature.op])
        if timeout is not None:
            options.timeout = timeout
        return self._gloo.group.allreduce([tensor.view(torch.bfloat16) if is_bfloat16 else tensor], options)

    def _allgather(self, call: Call, timeout: timedelta | None) -> dist.Work:
        options = AllgatherOptions()
        if timeout is not None:
            options.timeout = timeout
        # As bytes: gloo does not know every dtype.
        rows = [torch.from_numpy(row) for row in call.out.reshape(self.world_size, -1)]
        return self._gloo.group.allgather([rows], [torch.from_numpy(call.source)], options)
