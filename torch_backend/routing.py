"""Which collective travels how: the one table that the process group is driven by.

Print it with `python -m switchml.torch_backend.routing`.

The path of a call must come out the same on every rank, so it depends only on what ranks must agree on: the
collective, the layout, and the size where the collective demands equal sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import torch

KIB = 1024


class Path(Enum):
    SWITCH = "switch"
    GLOO = "gloo"


@dataclass(frozen=True)
class Route:
    """One row of the table.

    Attributes:
        methods: the names under which torch calls the collective, over torch's versions.
        path: the way it travels.
        why: the reason.
        largest: bytes of one rank's input up to which the switch is taken, gloo above; None = any size.

    Whatever `path` says, tensors that are not dense (sparse layouts) take gloo.
    """

    methods: tuple[str, ...]
    path: Path
    why: str
    largest: int | None = None

    def choose(self, tensors: Iterable[torch.Tensor]) -> Path:
        """The path of a call whose inputs on this rank are `tensors`."""
        if self.path is Path.GLOO:
            return Path.GLOO
        size = 0
        for tensor in tensors:
            if tensor.layout is not torch.strided:
                return Path.GLOO
            size += tensor.nbytes
        return Path.SWITCH if self.largest is None or size <= self.largest else Path.GLOO


_ALLREDUCE = "one round trip instead of a ring; bitwise equal on every rank"
_GATHERED = "on the switch every rank sends world size times its bytes: worth it only where latency rules"
_NOT_YET = "not done by the switch"

ROUTES = (
    Route(("allreduce",), Path.SWITCH, _ALLREDUCE),
    Route(("allreduce_coalesced",), Path.SWITCH, "queued back to back, so they share their round trips"),
    Route(("reduce",), Path.SWITCH, "an allreduce of which only the root keeps the result"),
    Route(
        ("reduce_scatter", "reduce_scatter_single", "_reduce_scatter_base"),
        Path.SWITCH,
        "an allreduce of which each rank keeps its part, as in gloo; adds AVG, which gloo lacks",
    ),
    Route(
        ("reduce_scatter_single_coalesced", "reduce_scatter_tensor_coalesced"),
        Path.SWITCH,
        "as reduce_scatter, queued back to back",
    ),
    Route(("broadcast",), Path.SWITCH, "one round trip"),
    Route(("barrier",), Path.SWITCH, "one packet a rank"),
    Route(("allgather", "all_gather_single", "_allgather_base"), Path.SWITCH, _GATHERED, largest=64 * KIB),
    Route(
        ("allgather_coalesced", "all_gather_single_coalesced", "allgather_into_tensor_coalesced"),
        Path.GLOO,
        _NOT_YET,
    ),
    Route(("gather", "scatter"), Path.GLOO, "one rank's link is the limit either way"),
    Route(("alltoall", "all_to_all_single", "alltoall_base"), Path.GLOO, "nothing to sum on the way"),
    Route(("send", "recv", "recv_anysource"), Path.GLOO, "between two ranks"),
    Route(("monitored_barrier",), Path.GLOO, "names the ranks that are missing, over send and recv"),
    Route(("_start_coalescing", "_end_coalescing"), Path.GLOO, "torch's own refusal"),
)

ROUTE_OF = {method: route for route in ROUTES for method in route.methods}


def gloo_methods() -> tuple[str, ...]:
    """The methods of a process group that are handed to gloo unseen."""
    return tuple(method for method, route in ROUTE_OF.items() if route.path is Path.GLOO)


def switch_methods() -> tuple[str, ...]:
    """The methods of a process group that can take the switch."""
    return tuple(method for method, route in ROUTE_OF.items() if route.path is Path.SWITCH)


def routing_table() -> str:
    """The table as text: a line a row."""
    rows = [("collective", "path", "why")]
    for route in ROUTES:
        limit = "" if route.largest is None else f" up to {route.largest // KIB} KiB, then gloo"
        rows.append((", ".join(route.methods), route.path.value + limit, route.why))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {path:<{widths[1]}}  {why}" for name, path, why in rows)


if __name__ == "__main__":
    print(routing_table())
