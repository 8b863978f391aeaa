"""Torch's ways to say which reduction, and with which options."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import (
    AllreduceOptions,
    BarrierOptions,
    BroadcastOptions,
    _make_nccl_premul_sum,
)
from torch.distributed import ReduceOp

from switchml.errors import UsageError
from switchml.torch_backend.reduction import CallOptions, call_options, operation, seconds

NAMES = {
    "SUM": "sum",
    "AVG": "avg",
    "PRODUCT": "prod",
    "MIN": "min",
    "MAX": "max",
    "BAND": "band",
    "BOR": "bor",
    "BXOR": "bxor",
}


@pytest.mark.parametrize(("torch_name", "worker_name"), NAMES.items())
def test_every_operation_in_every_guise(torch_name: str, worker_name: str) -> None:
    kind = getattr(ReduceOp, torch_name)
    options = AllreduceOptions()
    options.reduceOp = kind
    assert operation(kind) == operation(ReduceOp(kind)) == operation(options) == worker_name


def test_sum_is_the_default() -> None:
    assert operation(None) == operation(AllreduceOptions()) == "sum"


def test_premultiplied_sum_is_refused() -> None:
    with pytest.raises(UsageError, match=r"PREMUL_SUM.*SUM instead"):
        operation(_make_nccl_premul_sum(2.0))
    assert dist.is_available()


@pytest.mark.parametrize("unset", [None, timedelta(0), timedelta(milliseconds=-1)])
def test_no_timeout(unset: timedelta | None) -> None:
    assert seconds(unset) is None


def test_options_of_a_call() -> None:
    assert call_options(None) == CallOptions(timeout=None, notify=True, root=0)
    assert call_options(None, timedelta(seconds=3)).timeout == 3
    assert call_options(AllreduceOptions()) == CallOptions(timeout=None, notify=True, root=0)
    options = BroadcastOptions()
    options.asyncOp, options.rootRank, options.timeout = False, 2, timedelta(seconds=5)
    assert call_options(options) == CallOptions(timeout=5, notify=False, root=2)
    assert call_options(BarrierOptions()).notify
