"""Two jobs of a rank on the switch: one for values, one for the exponents under which they are scaled.

A tensor on a GPU needs two collectives, and the second can only be submitted when the first is over: by then the next may have
come on some ranks and not on others. So that the order is the same everywhere all the same, exponents go through a job of
their own, in the order of the callers, and what follows from them through the other, in the same order on one thread.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy.typing as npt
from torch._C._distributed_c10d import PrefixStore, Store

from switchml.protocol.messages import FLOAT32
from switchml.torch_backend.completion_pool import CompletionPool
from switchml.torch_backend.membership import CLOSE_SECONDS, Membership, OpenWorker, join_switch
from switchml.torch_backend.options import Options
from switchml.torch_backend.ordered_tasks import OrderedTasks
from switchml.worker.work import Work

Array = npt.NDArray[Any]

_EXPONENTS_WINDOW = 32  # slots of the job for exponents, which are few


class JobPair:
    """Made by all ranks of a group at once.

    Args:
        store: for the rendezvous of these two jobs alone.
        timeout: deadline of a collective.

    Attributes:
        ordered: the one thread on which everything is submitted that has waited for exponents.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        *,
        timeout: timedelta,
        options: Options,
        open_worker: OpenWorker = join_switch,
    ) -> None:
        self.rank, self.world_size = rank, world_size

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
        self._values = join("sums", options)
        self._exponents: Membership | None = None  # joined when there are exponents
        self.ordered = OrderedTasks("switchml-hook")

    @property
    def pool(self) -> CompletionPool:
        """Threads for whatever waits."""
        return self._values.pool

    @property
    def wire(self) -> str:
        """What sums of float32 values travel as."""
        return self._options.wire

    def reduce_values(self, array: Array, op: str, **options: Any) -> Work:
        """Submit an all-reduce, in place unless told otherwise; see `switchml.worker.Worker.allreduce`."""
        return self._values.worker().allreduce(array, op, timeout=self._values.timeout, **options)

    def reduce_exponents(self, array: Array, op: str) -> Work:
        """Submit an all-reduce of exponents, in place."""
        if self._exponents is None:
            self._exponents = self._join(
                "scales", replace(self._options, window=_EXPONENTS_WINDOW, wire=FLOAT32)
            )
        return self._exponents.worker().allreduce(array, op, timeout=self._exponents.timeout)

    def counters(self) -> dict[str, int]:
        """This rank's counters on the switch, of both jobs together."""
        total = self._values.counters()
        if self._exponents is not None:
            for name, value in self._exponents.counters().items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        """Leave both jobs; what is in flight fails. Idempotent."""
        for membership in (self._values, self._exponents):
            if membership is not None:
                membership.close()
        self.ordered.close(CLOSE_SECONDS)
