"""What a caller asked of a reduction, out of torch's several ways to say it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from torch.distributed import ReduceOp

from switchml.errors import UsageError

WORKER_OPERATION: dict[Any, str] = {
    ReduceOp.SUM: "sum",
    ReduceOp.AVG: "avg",
    ReduceOp.PRODUCT: "prod",
    ReduceOp.MIN: "min",
    ReduceOp.MAX: "max",
    ReduceOp.BAND: "band",
    ReduceOp.BOR: "bor",
    ReduceOp.BXOR: "bxor",
}


class CallOptions(NamedTuple):
    """Options common to every collective."""

    timeout: float | None  # seconds; None = the group's
    notify: bool  # False: the caller will call wait() at once
    root: int


def seconds(timeout: timedelta | None) -> float | None:
    """Seconds of a torch timeout; None for the several values with which torch says "none given"."""
    return timeout.total_seconds() if timeout is not None and timeout > timedelta(0) else None


def call_options(options: Any, timeout: timedelta | None = None) -> CallOptions:
    """The options of a call: an options object of torch, or None where the call had plain arguments."""
    return CallOptions(
        timeout=seconds(getattr(options, "timeout", timeout)),
        notify=getattr(options, "asyncOp", True),
        root=getattr(options, "rootRank", 0),
    )


def operation(options: Any) -> str:
    """The worker's name of the operation in an options object, a `ReduceOp` or its kind; SUM for None.

    Raises:
        UsageError: an operation that has no meaning outside NCCL.
    """
    if options is None:
        return "sum"
    reduce_op = getattr(options, "reduceOp", options)
    kind = getattr(reduce_op, "op", reduce_op)
    name = WORKER_OPERATION.get(kind)
    if name is None:
        raise UsageError(
            f"reduction {getattr(kind, 'name', kind)} is not supported by the backend switchml; scale the tensor "
            "before an all-reduce with SUM instead"
        )
    return name
