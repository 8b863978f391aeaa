"""A backend of torch.distributed: gloo, a ring over TCP, what PyTorch uses on CPUs; UCC where torch is built with it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from switchml.bench.systems.catalogue import Place
from switchml.bench.timed_collectives import ROOT
from switchml.bench.verification import Array
from switchml.errors import UsageError

_OPERATIONS = {
    "sum": dist.ReduceOp.SUM,
    "prod": dist.ReduceOp.PRODUCT,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "band": dist.ReduceOp.BAND,
    "bor": dist.ReduceOp.BOR,
    "bxor": dist.ReduceOp.BXOR,
}
# Torch 2.13 has renamed them.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
_TIMEOUT = datetime.timedelta(seconds=300)


class TorchBackend:
    """One rank of a group. Option: backend."""

    def open(self, place: Place) -> None:
        """Join through the place's store, or a file's, which reaches across network namespaces."""
        if place.interface:
            os.environ["GLOO_SOCKET_IFNAME"] = place.interface
        torch.set_num_threads(1)
        meeting: dict[str, Any] = {"store": place.store}
        if place.store is None:
            meeting = {"init_method": (Path(place.rendezvous) / "store").as_uri()}
        dist.init_process_group(
            place.options["backend"],
            rank=place.rank,
            world_size=place.world_size,
            timeout=_TIMEOUT,
            **meeting,
        )
        alone = place.store is None and place.interface != "lo"
        self._retransmissions = _tcp_retransmissions() if alone else None

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """Reduce in place."""
        dist.all_reduce(_tensor(buffer, dtype), _OPERATIONS[op])

    def collective(self, name: str, given: Array, taken: Array, dtype: str, op: str) -> None:
        """See `System`."""
        source, target = _tensor(given, dtype), _tensor(taken, dtype)
        match name:
            case "broadcast":
                dist.broadcast(source, ROOT)
            case "reduce":
                dist.reduce(source, ROOT, _OPERATIONS[op])
            case "all_gather":
                _all_gather(target, source)
            case "reduce_scatter":
                _reduce_scatter(target, source, _OPERATIONS[op])
            case "all_to_all":
                dist.all_to_all_single(target, source)
            case _:
                raise UsageError(f"there is no {name} here")

    def barrier(self) -> None:
        """The backend's own."""
        dist.barrier()

    def error_bound(self) -> float:
        """Such backends add floating-point numbers."""
        return 0.0

    def counters(self) -> dict[str, int]:
        """TCP segments sent again, where the interface is this rank's alone."""
        if self._retransmissions is None:
            return {}
        return {"retransmissions": _tcp_retransmissions() - self._retransmissions}

    def describe(self) -> dict[str, Any]:
        """Versions and TCP's congestion control."""
        congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        return {"torch": torch.__version__, "tcp_congestion_control": congestion}

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def _tensor(array: Array, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _tcp_retransmissions() -> int:
    """RetransSegs of this process's network namespace."""
    lines = [line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == "Tcp:")
    return int(dict(zip(names, values, strict=True))["RetransSegs"])
