"""torch.distributed's gloo: a ring over TCP, what PyTorch uses on CPUs."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from switchml.bench.systems.catalogue import Place
from switchml.bench.verification import Array

_OPERATIONS = {
    "sum": dist.ReduceOp.SUM,
    "prod": dist.ReduceOp.PRODUCT,
    "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
    "band": dist.ReduceOp.BAND,
    "bor": dist.ReduceOp.BOR,
    "bxor": dist.ReduceOp.BXOR,
}
_TIMEOUT = datetime.timedelta(seconds=300)


class Gloo:
    """One rank of a gloo group."""

    def open(self, place: Place) -> None:
        """Join through the place's store, or a file's, which reaches across network namespaces."""
        if place.interface:
            os.environ["GLOO_SOCKET_IFNAME"] = place.interface
        torch.set_num_threads(1)
        meeting: dict[str, Any] = {"store": place.store}
        if place.store is None:
            meeting = {"init_method": (Path(place.rendezvous) / "store").as_uri()}
        dist.init_process_group(
            "gloo", rank=place.rank, world_size=place.world_size, timeout=_TIMEOUT, **meeting
        )
        alone = place.store is None and place.interface != "lo"
        self._retransmissions = _tcp_retransmissions() if alone else None

    def allreduce(self, buffer: Array, dtype: str, op: str) -> None:
        """Reduce in place."""
        tensor = torch.from_numpy(buffer)
        if dtype == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        dist.all_reduce(tensor, _OPERATIONS[op])

    def barrier(self) -> None:
        """Gloo's own."""
        dist.barrier()

    def error_bound(self) -> float:
        """Gloo adds floating-point numbers."""
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


def _tcp_retransmissions() -> int:
    """RetransSegs of this process's network namespace."""
    lines = [line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()]
    names, values = (line for line in lines if line[0] == "Tcp:")
    return int(dict(zip(names, values, strict=True))["RetransSegs"])
